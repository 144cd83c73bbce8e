"""Where files may go, looked at before anything is computed for them."""

from __future__ import annotations

import os
from pathlib import Path

from everlearn.errors import RunError


def check_place(folder: Path) -> None:
    """Refuse a folder that takes no files; nothing is made.

    Raises
    ------
    RunError
        If the folder, or the nearest one above that is there, is a file or may not be written to.

    Examples
    --------
    >>> check_place(Path("pages"))
    """
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.exists(place))  # noqa: PTH110, which may raise
    if not there.is_dir():
        raise RunError(f"cannot write to {folder}: {there} is not a directory; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot write to {folder}: {there} may not be written to; choose another place")
