"""Checkpoints: tensors in safetensors, the rest in JSON; written beside and renamed; the last two are kept.

A checkpoint is a folder ``checkpoints/STEP`` (eight digits) with ``state.safetensors`` and ``state.json``. The JSON
holds the hash of the tensors' file, so that a damaged checkpoint is noticed and the one before it taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from everlearn.errors import RunError

_KEPT = 2


@dataclass
class Progress:
    """How far a run is: no clock in it, so that the same run gives the same bytes.

    Attributes
    ----------
    step : int
        Steps taken.
    position : int
        Samples of the stream behind us, quarantined ones included.
    samples_seen, quarantined : int
        Samples learned, and put aside.
    matrix : list of list of float or None
        Accuracy rows measured so far.
    finished : bool
        The stream has ended.
    part : int
        Which of the run's sources is being learned; position and finished are about this one.
    alarms : dict
        State of `everlearn.runs.alarms.Alarms`.
    calibration_error : float or None
        Over all samples of the matrix's last row, 0 to 1; None where nothing was measured.
    forwards : float or None
        What looking and learning have computed (`everlearn.learners.forwards`); None where it was not counted.
    branch : int
        Of the run's history (`everlearn.runs.review_tables`); 0 for a run that was never taken back.
    """

    step: int = 0
    position: int = 0
    samples_seen: int = 0
    quarantined: int = 0
    matrix: list[list[float | None]] = field(default_factory=list)
    finished: bool = False
    branch: int = 0
    part: int = 0
    alarms: dict[str, Any] = field(default_factory=dict)
    calibration_error: float | None = None
    forwards: float | None = None


def save(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint so that it is there whole or not at all, then drop all but the last two."""
    name = f"{progress.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".writing-{name}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, beside / "state.safetensors")
        known = asdict(progress) | {"sha256": _hash(beside / "state.safetensors")}
        (beside / "state.json").write_text(json.dumps(known, sort_keys=True) + "\n", encoding="utf-8")
        for file in beside.iterdir():
            _sync(file)
        if (folder / name).exists():  # the same step again, as when a finished run is resumed: the same bytes
            shutil.rmtree(folder / name)
        beside.rename(folder / name)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(
            f"cannot write checkpoint {folder / name}: {reason}; the checkpoints before it are intact"
        ) from error
    for old in steps(folder)[:-_KEPT]:
        shutil.rmtree(folder / f"{old:08d}", ignore_errors=True)
    return folder / name


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    return sorted(int(path.name) for path in folder.glob("[0-9]" * 8)) if folder.is_dir() else []


def drop(folder: Path, step: int) -> None:
    """Delete one checkpoint."""
    shutil.rmtree(folder / f"{step:08d}", ignore_errors=True)


def progress_of(folder: Path, step: int) -> Progress:
    """How far a checkpoint is, without its tensors; raises `RunError` where it is damaged."""
    path = folder / f"{step:08d}"
    try:
        known = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return Progress(**{name: value for name, value in known.items() if name != "sha256"})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {error}") from error


def load(folder: Path, step: int) -> tuple[Progress, dict[str, Tensor]]:
    """Read one checkpoint; raises `RunError` where it is damaged."""
    path = folder / f"{step:08d}"
    try:
        known: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if _hash(path / "state.safetensors") != known.pop("sha256"):
            raise RunError(f"checkpoint {path} is damaged: its tensors do not match their hash")
        return Progress(**known), load_file(path / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {error}") from error


def load_last(
    folder: Path, counts: Callable[[int, int], bool] = lambda branch, step: True
) -> tuple[Progress, dict[str, Tensor], list[str]]:
    """Read the newest checkpoint that is whole, and what was found wrong with newer ones; all zero where there is none.

    ``counts(branch, step)`` says whether a checkpoint still counts; one that was taken back is passed over.
    """
    while True:
        wrong, there = [], steps(folder)
        for step in reversed(there):
            try:
                progress, tensors = load(folder, step)
            except RunError as error:
                wrong.append(str(error))
                continue
            if counts(progress.branch, progress.step):
                return progress, tensors, wrong
        if steps(folder) == there:  # else another process has written newer ones in the meantime, and dropped these
            return Progress(), {}, wrong


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
