"""Versions: numbered states of a learner that predict; each a folder ``versions/NUMBER`` like a checkpoint.

A version's files are the same files as its checkpoint's (hard links), so that it costs no second copy.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import Tensor

from everlearn.errors import RunError
from everlearn.runs import checkpoints
from everlearn.runs.checkpoints import Progress

KEPT = 12


def publish(run: Path, number: int, checkpoint: Path) -> Path:
    """Make a checkpoint version ``number``; whole or not at all."""
    folder = run / "versions"
    beside, target = folder / f".writing-{number:08d}", folder / f"{number:08d}"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)  # of a writer that died before it could enter it
        beside.mkdir(parents=True)
        for file in checkpoint.iterdir():
            try:
                os.link(file, beside / file.name)
            except OSError:  # a file system without hard links
                shutil.copy2(file, beside / file.name)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise RunError(
            f"cannot write version {target}: {error.strerror or error}; the versions before it are intact"
        ) from error
    return target


def load(run: Path, number: int) -> tuple[Progress, dict[str, Tensor]]:
    """Read a version."""
    return checkpoints.load(run / "versions", number)


def there(run: Path) -> list[int]:
    """Numbers of the versions whose files are there, oldest first."""
    return checkpoints.steps(run / "versions")


def drop(run: Path, number: int) -> None:
    """Delete a version's files."""
    shutil.rmtree(run / "versions" / f"{number:08d}", ignore_errors=True)


def superfluous(numbers: list[int], in_service: int | None, kept: int = KEPT) -> list[int]:
    """Which versions to delete: all but the first, the newest, each tenth of the last hundred, the one in service.

    Examples
    --------
    >>> superfluous([1, 2, 3, 4, 5], in_service=3, kept=1)
    [2, 4]
    """
    newest = max(numbers, default=0)
    stay = {*numbers[:1], *numbers[-kept:], in_service} | {n for n in numbers if n % 10 == 0 and n > newest - 100}
    return [n for n in numbers if n not in stay]
