"""A run's directory: it must be there, and one process at a time writes to it."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from everlearn.errors import RunError


def locked(path: Path) -> FileLock:
    """Take the lock of a run's directory, which then holds this process's number; it goes when the process ends."""
    taken = FileLock(path / ".lock")
    try:
        taken.acquire(timeout=0)
        (path / ".lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    except Timeout as error:
        raise RunError(f"{path} is in use by another process; wait for it to end, or stop it") from error
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
    return taken


def check_directory(path: Path) -> None:
    """Refuse a path that is no directory, and so no run."""
    if not path.is_dir():
        raise RunError(f"{path} is not a run: {'it is a file' if path.exists() else 'there is no such directory'}")
