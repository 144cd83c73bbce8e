"""What predict and explain are given: pictures, or texts; each as the run takes it, with a name to show."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from everlearn.cli import show
from everlearn.data import read_picture
from everlearn.data.decode import SUFFIXES, check_file
from everlearn.data.dicom import is_dicom
from everlearn.data.table import SUFFIXES as TABLE_SUFFIXES
from everlearn.data.table import read_texts
from everlearn.data.text import to_bytes
from everlearn.errors import DataError, SettingError
from everlearn.runs import Run

_LARGEST = 2**20  # bytes of a file that holds one text


def open_run(path: Path) -> Run:
    """A run to read; what was passed over on the way, such as a damaged checkpoint, is told on standard error."""
    run = Run.open(path)
    for text in run.warnings:
        show.warn(text)
    return run


def read_given(run: Run, files: list[Path], texts: list[str]) -> tuple[Tensor, list[str]]:
    """Inputs ``[n, C, H, W]`` uint8 and their names.

    Parameters
    ----------
    run : Run
    files : list of Path
        Pictures, DICOM files or folders of them; of a run on texts files with one text each, or tables of texts.
    texts : list of str
        Texts themselves.

    Raises
    ------
    DataError
        If one cannot be read.
    SettingError
        If there is none, or texts for a run on pictures.
    """
    if not files and not texts:
        raise SettingError(f"expected FILES{' or --text TEXT' if run.config.data.of_texts else ''}; none was given")
    if run.config.data.of_texts:
        return _texts(run, files, texts)
    if texts:
        raise SettingError(f"{run.path} is of pictures; leave --text out and name files")
    channels, size, _ = run.shape
    pictures = [torch.from_numpy(read_picture(file, channels, size)) for file in files]
    return torch.stack(pictures), [str(file) for file in files]


def expanded(files: list[Path]) -> list[Path]:
    """Folders replaced by the pictures and DICOM files below them, in order."""
    found: list[Path] = []
    for file in files:
        if not file.is_dir():
            found.append(file)
            continue
        inside = sorted(p for p in file.rglob("*") if p.is_file() and not p.name.startswith("."))
        inside = [p for p in inside if p.suffix.lower() in SUFFIXES or is_dicom(p)]
        if not inside:
            raise DataError(f"{file} holds no picture; expected JPEG, PNG, BMP, TIFF, WebP or DICOM files")
        found += inside
    return found


def _texts(run: Run, files: list[Path], texts: list[str]) -> tuple[Tensor, list[str]]:
    length = run.shape[2]
    parts: list[Tensor] = []
    names: list[str] = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise DataError(f"text {number} is empty")
        parts.append(torch.from_numpy(to_bytes(text, length))[None])
        names.append(f"text {number}")
    for file in files:
        if file.name.lower().endswith(TABLE_SUFFIXES):
            found = read_texts(file, run.config.data.columns["text"])
            parts += [torch.from_numpy(to_bytes(text, length))[None] for text in found]
            names += [f"{file.name}, row {row}" for row in range(1, len(found) + 1)]
        else:
            parts.append(torch.from_numpy(to_bytes(_read(file), length))[None])
            names.append(str(file))
    return torch.cat(parts), names


def _read(file: Path) -> str:
    check_file(file, _LARGEST)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); convert it") from None
    if not text.strip():
        raise DataError(f"{file} holds no text")
    return text
