"""Regions: where in its picture a sample's decision should rest, as a mask or boxes that a person drew."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from everlearn.data.decode import fit, open_image
from everlearn.errors import DataError

if TYPE_CHECKING:
    from everlearn.data.pictures import Pictures

META = "meta.jsonl"

Mark = str | tuple[tuple[float, float, float, float], ...] | None
"""A mask's file, or boxes (left, top, right, bottom) in pixels of the picture as it is stored, or nothing."""


@dataclass(frozen=True)
class Regions:
    """The regions of N samples.

    Parameters
    ----------
    root : Path
        The folder that masks lie in.
    marks : sequence of Mark
        ``[N]``; None: the whole picture.
    pictures : Pictures
        Of the same samples: what a mask must fit.
    """

    root: Path
    marks: Sequence[Mark] = field(repr=False)
    pictures: Pictures = field(repr=False)

    def read(self, i: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Region i as uint8 ``[1, H, W]``, 255 inside, brought to the size as pictures are.

        Raises
        ------
        DataError
            If the mask cannot be read, or has other proportions than its picture.
        """
        mark = self.marks[i]
        if mark is None:
            return np.full((1, *size), 255, np.uint8)
        picture = self.pictures.look(i).size
        if isinstance(mark, str):
            path = _below(self.root, mark)
            mask = open_image(path).convert("L")
            if abs(mask.width * picture[1] - mask.height * picture[0]) > max(*picture, *mask.size):
                found = f"{mask.width} × {mask.height} pixels, its picture {picture[0]} × {picture[1]}"
                raise DataError(f"{path}: the mask has {found}; expected the same proportions")
        else:
            mask = Image.new("L", picture)
            for left, top, right, bottom in mark:
                ImageDraw.Draw(mask).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=255)
        return fit(mask, (1, *size))

    def select(self, indices: NDArray[np.int64], pictures: Pictures) -> Regions:
        """Those of the samples at the given positions; ``pictures`` are theirs."""
        return replace(self, marks=[self.marks[i] for i in indices], pictures=pictures)


def regions_of_folder(folder: Path, names: Sequence[str], pictures: Pictures) -> Regions | None:
    """The regions that a folder's ``meta.jsonl`` tells of; None where it tells of none.

    Each line is an object with ``file``, the picture's path in the folder, and ``mask``, a file in the folder that is
    bright inside, or ``boxes``, a list of [name, left, top, right, bottom] in pixels.

    Raises
    ------
    DataError
        If a line is no JSON, or a mask or box is of another form.

    Examples
    --------
    >>> import tempfile
    >>> from everlearn.data.pictures import Files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / META).write_text('{"file": "cat/1.png", "boxes": [["ear", 0, 0, 4, 4]]}')
    ...     found = regions_of_folder(Path(folder), ["cat/1.png", "cat/2.png"], Files(Path(folder), []))
    >>> found.marks
    [((0.0, 0.0, 4.0, 4.0),), None]
    """
    file = folder / META
    if not file.is_file():
        return None
    known: dict[str, Mark] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{file}, line {number}: no JSON; repair or remove the line") from None
        if isinstance(row, dict) and "file" in row:
            known[os.path.normpath(str(row["file"]))] = _mark(row, f"{file}, line {number}")
    marks = [known.get(os.path.normpath(name)) for name in names]
    return Regions(folder.resolve(), marks, pictures) if any(mark is not None for mark in marks) else None


def _mark(row: dict[str, Any], where: str) -> Mark:
    if row.get("mask") is not None:
        if not isinstance(row["mask"], str):
            raise DataError(f"{where}: mask is {row['mask']!r}; expected the name of a file")
        return row["mask"]
    if not row.get("boxes"):
        return None
    try:
        return tuple((float(x0), float(y0), float(x1), float(y1)) for _, x0, y0, x1, y1 in row["boxes"])
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: boxes are {row['boxes']!r}; expected [[name, left, top, right, bottom], …]"
        ) from None


def _below(root: Path, name: str) -> str:
    real = os.path.realpath(root / name)
    if not real.startswith(str(root).rstrip(os.sep) + os.sep):
        raise DataError(f"the mask {name} lies outside {root}; expected a file in that folder")
    return real
