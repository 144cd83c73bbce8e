"""A source: a table of samples with a way to read each, whatever format it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from everlearn.data.regions import Regions


@dataclass(frozen=True)
class Source:
    """N samples that can be read one by one, in any process.

    Parameters
    ----------
    name : str
        What a person calls it: the folder, the file, ``builtin:digits``.
    shape : tuple of int
        (C, H, W) of every picture as it is read; C is 1 or 3. Of texts (1, 1, B), B their bytes.
    class_names : tuple of str
        In natural order; a label is a position in it.
    labels : array of int64
        ``[N]``.
    names : sequence of str
        ``[N]``: the file or row that a person can look up.
    read : callable
        ``read(i)`` gives sample i as uint8 ``[C, H, W]``. It is picklable, and raises `DataError` for a sample that
        cannot be read, which is then quarantined.
    test : array of bool
        ``[N]``: held out, never learned.
    times, tasks, sites, patients : array, optional
        ``[N]`` each: seconds (float64), task numbers (int64), names (str).
    regions : Regions, optional
        Where in its picture each sample's decision should rest.
    in_memory : bool
        Whether reading costs next to nothing, so that no worker processes are worth starting.
    text : bool
        Whether samples are texts (`everlearn.data.text`).
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    labels: NDArray[np.int64] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    read: Callable[[int], NDArray[np.uint8]] = field(repr=False)
    test: NDArray[np.bool_] = field(repr=False)
    times: NDArray[np.float64] | None = field(default=None, repr=False)
    tasks: NDArray[np.int64] | None = field(default=None, repr=False)
    sites: NDArray[np.str_] | None = field(default=None, repr=False)
    patients: NDArray[np.str_] | None = field(default=None, repr=False)
    regions: Regions | None = field(default=None, repr=False)
    in_memory: bool = False
    text: bool = False

    def __len__(self) -> int:
        return len(self.labels)
