"""Streams: samples of a source in the order they are learned, with or without borders between tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.data.reading import read_in_order
from everlearn.data.samples import Batch
from everlearn.data.source import Source
from everlearn.errors import DataError, SettingError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Quarantined:
    """A sample that could not be read: its id, its name, why, and its position in the stream."""

    id: int
    name: str
    reason: str
    position: int


@dataclass(frozen=True)
class Stream:
    """Samples of a source in the order they are learned; each at most once, held-out ones never.

    Parameters
    ----------
    source : Source
        Where samples are read.
    tasks : sequence of int64 arrays
        For each task the source's sample numbers in the order of learning.
    borders : bool
        Whether a learner may know where a task ends. If so, no batch crosses a border and every batch bears its task's
        number; if not, batches run through and ``tasks`` only say when to evaluate.
    codes : array of int64, optional
        ``[classes of the source]``: the label code of each class, for streams that go on after another source's. By
        default the position of the class.
    first_id : int
        The id of the source's sample 0; sample i has ``first_id + i``.
    first_task : int
        The number of the first task, for streams that go on after another one.
    name : str
        What a person calls it.
    held_out : sequence of int64 arrays, optional
        The test samples of each task. By default those of the task's classes.

    Raises
    ------
    DataError
        If a task is empty, or a sample is streamed twice, held out, or not in the source.

    Examples
    --------
    >>> from everlearn.data import class_incremental, open_source
    >>> stream = class_incremental(open_source("builtin:digits"), tasks=5)
    >>> batch = next(stream.batches(10))
    >>> len(stream), batch.inputs.shape, sorted(set(batch.labels.tolist())), batch.task, batch.end
    (1438, torch.Size([10, 1, 8, 8]), [0, 1], 0, 10)
    """

    source: Source
    tasks: Sequence[Indices] = field(repr=False)
    borders: bool = True
    codes: Indices | None = field(default=None, repr=False)
    first_id: int = 0
    first_task: int = 0
    name: str = "stream"
    held_out: Sequence[Indices] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        order = np.concatenate(self.tasks) if len(self.tasks) else np.zeros(0, np.int64)
        n = len(self.source)
        if not len(self.tasks) or any(len(task) == 0 for task in self.tasks):
            raise DataError(f"{self.name}: a task has no sample to learn; expected one or more in each")
        if order.min() < 0 or order.max() >= n:
            wrong = order.min() if order.min() < 0 else order.max()
            raise DataError(f"{self.name}: sample {wrong} is not in {self.source.name}, which has {n}")
        if np.bincount(order, minlength=n).max() > 1:
            raise DataError(f"{self.name}: sample {np.bincount(order).argmax()} comes twice; expected each once")
        if self.source.test[order].any():
            found = order[self.source.test[order]][0]
            raise DataError(f"{self.name}: sample {found} is held out for evaluation; it must not be learned")
        if self.codes is not None and len(self.codes) != len(self.source.class_names):
            found = f"{len(self.codes)} codes for {len(self.source.class_names)} classes"
            raise DataError(f"{self.name}: {found}; expected one code for each")
        if self.held_out is not None and len(self.held_out) != len(self.tasks):
            raise DataError(f"{self.name}: {len(self.held_out)} test sets for {len(self.tasks)} tasks")

    def __len__(self) -> int:
        return sum(len(task) for task in self.tasks)

    def batches(
        self,
        batch: int = 10,
        start: int = 0,
        workers: int = 0,
        on_bad: Callable[[Quarantined], object] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Read the stream in batches.

        Parameters
        ----------
        batch : int
            Samples in each; the last of a task (of the stream, without borders) may have fewer.
        start : int
            Position to begin at: 0, or the ``end`` of the last batch learned.
        workers : int
            Processes that decode ahead; 0 decodes here. Batches are the same for any number. A source in memory needs
            none and starts none.
        on_bad : callable, optional
            Called with a `Quarantined` for every sample that cannot be read, in the order of the stream and before the
            batch that ends behind it is given; the samples that follow fill the batch.
        share : tuple of int
            Rank and number of processes that read the stream together. Of several each gets its part of the next
            ``batch`` × processes samples, evenly where a task has fewer left; parts have one ``end``, may be empty, and
            are not filled where a sample cannot be read.

        Yields
        ------
        Batch
            ``end`` is the position behind the batch's last sample. Going on from there gives the same batches as never
            having stopped.

        Raises
        ------
        SettingError
            If batch, start or workers is out of range.
        """
        if batch < 1:
            raise SettingError(f"batch is {batch}; expected 1 or more samples")
        if not 0 <= start <= len(self):
            raise SettingError(f"start is {start}; expected a position from 0 to {len(self)}")
        if workers < 0:
            raise SettingError(f"workers is {workers}; expected 0 or more processes")
        if share[1] > 1:
            return self._shares(batch, start, workers, on_bad, *share)
        return self._batches(batch, start, workers, on_bad)

    def tests(self) -> list[Indices]:
        """The held-out samples of each task, in the source's order."""
        if self.held_out is not None:
            return list(self.held_out)
        return [_test_of_classes(self.source, np.unique(self.source.labels[task])) for task in self.tasks]

    def labels(self, indices: Indices) -> Tensor:
        """Label codes of the source's samples, as batches have them."""
        labels = self.source.labels[indices]
        return torch.from_numpy((labels if self.codes is None else self.codes[labels]).astype(np.int64))

    def _batches(
        self, batch: int, start: int, workers: int, on_bad: Callable[[Quarantined], object] | None
    ) -> Iterator[Batch]:
        order = np.concatenate(self.tasks).astype(np.int64)
        ends = np.cumsum([len(task) for task in self.tasks]) if self.borders else np.array([len(order)])
        held: list[NDArray[np.uint8]] = []
        marks: list[NDArray[np.uint8]] = []
        places: list[int] = []
        for position, picture in enumerate(read_in_order(self.source, order[start:], workers), start):
            i = int(order[position])
            sample = picture if isinstance(picture, DataError) else self._with_region(picture, i)
            if isinstance(sample, DataError):
                self._tell(sample, i, position, on_bad)
            else:
                held.append(sample[0])
                marks += sample[1:]
                places.append(position)
            task = int(np.searchsorted(ends, position, side="right"))
            if held and (len(held) == batch or position + 1 == ends[task]):
                yield self._batch(held, marks, order[places], task, position + 1)
                held, marks, places = [], [], []

    def _with_region(self, picture: NDArray[np.uint8], i: int) -> list[NDArray[np.uint8]] | DataError:
        """The picture, and where the source tells of regions its own."""
        if self.source.regions is None:
            return [picture]
        try:
            return [picture, self.source.regions.read(i, self.source.shape[1:])]
        except DataError as error:
            return error

    def _shares(
        self,
        batch: int,
        start: int,
        workers: int,
        on_bad: Callable[[Quarantined], object] | None,
        rank: int,
        processes: int,
    ) -> Iterator[Batch]:
        order = np.concatenate(self.tasks).astype(np.int64)
        ends = np.cumsum([len(task) for task in self.tasks]) if self.borders else np.array([len(order)])
        steps: list[tuple[Indices, int, int]] = []  # positions of this process's part, task, end
        while start < len(order):
            task = int(np.searchsorted(ends, start, side="right"))
            end = min(start + batch * processes, int(ends[task]))
            steps.append((np.array_split(np.arange(start, end), processes)[rank], task, end))
            start = end
        mine = np.concatenate([places for places, _, _ in steps]) if steps else np.zeros(0, np.int64)
        pictures = read_in_order(self.source, order[mine], workers)
        for places, task, end in steps:
            held, marks, taken = [], [], []
            for position in places.tolist():
                picture, i = next(pictures), int(order[position])
                sample = picture if isinstance(picture, DataError) else self._with_region(picture, i)
                if isinstance(sample, DataError):
                    self._tell(sample, i, position, on_bad)
                else:
                    held.append(sample[0])
                    marks += sample[1:]
                    taken.append(i)
            yield self._batch(held, marks, np.array(taken, dtype=np.int64), task, end)

    def _batch(
        self, held: list[NDArray[np.uint8]], marks: list[NDArray[np.uint8]], taken: Indices, task: int, end: int
    ) -> Batch:
        inputs = torch.from_numpy(np.stack(held) if held else np.zeros((0, *self.source.shape), np.uint8))
        ids = torch.from_numpy(taken + self.first_id)
        regions = torch.from_numpy(np.stack(marks)) if marks else None
        return Batch(inputs, self.labels(taken), ids, self.first_task + task if self.borders else None, end, regions)

    def _tell(self, error: DataError, i: int, position: int, on_bad: Callable[[Quarantined], object] | None) -> None:
        if on_bad is not None:
            on_bad(Quarantined(self.first_id + i, self.source.names[i], str(error), position))


def _test_of_classes(source: Source, classes: Indices) -> Indices:
    return np.flatnonzero(np.isin(source.labels, classes) & source.test)
