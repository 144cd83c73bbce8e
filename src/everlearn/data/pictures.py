"""Where pictures come from: files, arrays. Both read sample i in any shape, and show it as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everlearn.data.decode import SUFFIXES, Shape, decode_picture, fit, open_image
from everlearn.data.dicom import is_dicom, open_dicom
from everlearn.data.regions import Regions
from everlearn.data.source import Source
from everlearn.data.text import Texts
from everlearn.errors import DataError

TRAIN, TEST, VALIDATION = 0, 1, 2


class Pictures(Protocol):
    """N pictures that can be read one by one; picklable."""

    @property
    def in_memory(self) -> bool:
        """Whether reading costs next to nothing."""

    def read(self, i: int, shape: Shape) -> NDArray[np.uint8]:
        """Picture i as uint8 ``[C, H, W]``."""

    def look(self, i: int) -> Image.Image:
        """Picture i as it is."""


@dataclass(frozen=True)
class Files:
    """Picture files below one folder, which no path and no link may leave.

    Parameters
    ----------
    root : Path
        The folder.
    paths : sequence of str
        Relative to it.
    """

    root: Path
    paths: Sequence[str] = field(repr=False)
    in_memory: bool = False

    def read(self, i: int, shape: Shape) -> NDArray[np.uint8]:
        """Decode file i."""
        return read_file(self._confined(i), shape)

    def look(self, i: int) -> Image.Image:
        """Decode file i at its own size."""
        return look_at_file(self._confined(i))

    def _confined(self, i: int) -> str:
        path = os.path.normpath(f"{self.root}/{self.paths[i]}" if self.paths[i][:1] != "/" else self.paths[i])
        folder, name = os.path.split(path)
        real = f"{_real(folder)}/{name}"
        if os.path.islink(real):  # noqa: PTH114  # pathlib would cost 20 µs a sample
            real = os.path.realpath(real)
        if not real.startswith(_real(str(self.root)).rstrip("/") + "/"):
            raise DataError(f"{self.paths[i]} lies outside {self.root}; expected a file in that folder")
        return path


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


@dataclass(frozen=True)
class Arrays:
    """Pictures held in memory: arrays ``[n, H, W]`` or ``[n, H, W, 3]`` of uint8, one behind the other."""

    arrays: tuple[NDArray[np.uint8], ...] = field(repr=False)
    in_memory: bool = True

    def read(self, i: int, shape: Shape) -> NDArray[np.uint8]:
        """Picture i in the shape wanted; without any cost if it has it already."""
        pixels = self._pixels(i)
        if pixels.ndim == 2 and shape == (1, *pixels.shape):
            return pixels[None]
        return fit(Image.fromarray(pixels), shape)

    def look(self, i: int) -> Image.Image:
        """Picture i as it is."""
        return Image.fromarray(self._pixels(i))

    def _pixels(self, i: int) -> NDArray[np.uint8]:
        for array in self.arrays:
            if i < len(array):
                return array[i]
            i -= len(array)
        raise IndexError(i)


@dataclass(frozen=True)
class Chosen:
    """Some of other pictures: picture i is their picture ``indices[i]``."""

    pictures: Pictures
    indices: NDArray[np.int64] = field(repr=False)

    @property
    def in_memory(self) -> bool:
        """As the others."""
        return self.pictures.in_memory

    def read(self, i: int, shape: Shape) -> NDArray[np.uint8]:
        """Picture i in the shape wanted."""
        return self.pictures.read(int(self.indices[i]), shape)

    def look(self, i: int) -> Image.Image:
        """Picture i as it is."""
        return self.pictures.look(int(self.indices[i]))


@dataclass(frozen=True)
class Listing:
    """What a format's reader finds out: everything of a `Source` but the shape and what is held out.

    ``split`` is TRAIN, TEST or VALIDATION for each sample where the format says so. The other fields are a Source's.
    """

    name: str
    pictures: Pictures | Texts
    names: Sequence[str] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...]
    split: NDArray[np.int8] | None = field(default=None, repr=False)
    times: NDArray[np.float64] | None = field(default=None, repr=False)
    tasks: NDArray[np.int64] | None = field(default=None, repr=False)
    sites: NDArray[np.str_] | None = field(default=None, repr=False)
    patients: NDArray[np.str_] | None = field(default=None, repr=False)
    regions: Regions | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: NDArray[np.int64]) -> Listing:
        """The samples at the given positions, in that order; classes stay."""
        given = ("split", "times", "tasks", "sites", "patients")
        known = {name: getattr(self, name)[indices] for name in given if getattr(self, name) is not None}
        names = [self.names[i] for i in indices]
        held = self.pictures
        pictures = held.select(indices) if isinstance(held, Texts) else Chosen(held, indices)
        regions = None
        if self.regions is not None and isinstance(pictures, Chosen):
            regions = self.regions.select(indices, pictures)
        labels = self.labels[indices]
        return replace(self, pictures=pictures, names=names, labels=labels, regions=regions, **known)

    def to_source(self, shape: Shape, test: NDArray[np.bool_]) -> Source:
        """The source, once shape and held-out samples are known."""
        return Source(
            name=self.name,
            shape=shape,
            class_names=self.class_names,
            labels=self.labels,
            names=self.names,
            read=partial(self.pictures.read, shape=shape),
            test=test,
            times=self.times,
            tasks=self.tasks,
            sites=self.sites,
            patients=self.patients,
            regions=self.regions,
            in_memory=self.pictures.in_memory,
            text=isinstance(self.pictures, Texts),
        )


def read_file(path: str | Path, shape: Shape) -> NDArray[np.uint8]:
    """One file of any supported kind as uint8 ``[C, H, W]``."""
    return fit(open_dicom(path), shape) if _as_dicom(path) else decode_picture(path, shape)


def look_at_file(path: str | Path) -> Image.Image:
    """One file of any supported kind as it is."""
    return open_dicom(path) if _as_dicom(path) else open_image(path)


def _as_dicom(path: str | Path) -> bool:
    return not str(path).lower().endswith(SUFFIXES) and is_dicom(path)
