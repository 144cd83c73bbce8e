"""One process at a time writes to a run's directory."""

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
