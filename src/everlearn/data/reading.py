"""Reading samples of a source in a given order, here or in worker processes, with the same result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from everlearn.data.source import Source
from everlearn.errors import DataError

_CHUNK_SAMPLES = 64
_CHUNK_BYTES = 4 * 2**20  # a few chunks of each worker lie in shared memory, which containers keep small

Picture = NDArray[np.uint8]


def read_in_order(source: Source, indices: NDArray[np.int64], workers: int = 0) -> Iterator[Picture | DataError]:
    """Read samples one by one; a sample that cannot be read gives its error in its place.

    Parameters
    ----------
    source : Source
        Whose ``read`` is picklable, for workers.
    indices : array of int64
        Which samples, in which order.
    workers : int
        Processes that decode ahead, four chunks of about 64 pictures at most for each; 0, or a source in memory: none.

    Yields
    ------
    array of uint8 or DataError
        For each index, in order, whatever the number of workers.
    """
    if workers == 0 or source.in_memory or not len(indices):
        for i in indices:
            yield _read(source, int(i))
        return
    samples = max(1, min(_CHUNK_SAMPLES, _CHUNK_BYTES // prod(source.shape)))
    chunks = _Chunks(source, [indices[k : k + samples] for k in range(0, len(indices), samples)])
    # a generator of its own: DataLoader would take its base seed out of the global random state
    loader: DataLoader[Any] = DataLoader(
        chunks, batch_size=None, num_workers=workers, prefetch_factor=2, generator=torch.Generator()
    )
    try:
        for pictures, errors in loader:
            good = iter(pictures.numpy())
            for message in errors:
                yield next(good) if message is None else DataError(message)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{source.name}: a process that reads pictures died ({reason}); use fewer workers") from None


def load(source: Source, indices: NDArray[np.int64], workers: int = 0) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Read a set of samples at once; those that cannot be read are left out.

    Parameters
    ----------
    source : Source
        Where to read.
    indices : array of int64
        Which samples.
    workers : int
        Processes that decode.

    Returns
    -------
    inputs, labels : Tensor
        uint8 ``[n, C, H, W]`` and int64 ``[n]``, the source's labels.
    kept : array of int64
        ``[n]``: the indices of the samples that could be read.

    Examples
    --------
    >>> from everlearn.data import open_source
    >>> inputs, labels, kept = load(open_source("builtin:digits"), np.arange(3))
    >>> inputs.shape, labels.tolist(), kept.tolist()
    (torch.Size([3, 1, 8, 8]), [0, 1, 2], [0, 1, 2])
    """
    inputs = torch.empty(len(indices), *source.shape, dtype=torch.uint8)
    kept = np.zeros(len(indices), dtype=bool)
    n = 0
    for place, picture in enumerate(read_in_order(source, indices, workers)):
        if not isinstance(picture, DataError):
            inputs[n] = torch.from_numpy(picture)
            kept[place] = True
            n += 1
    indices = np.asarray(indices, dtype=np.int64)[kept]
    return inputs[:n], torch.from_numpy(source.labels[indices]), indices


@dataclass(frozen=True)
class _Chunks(Dataset[tuple[Tensor, list[str | None]]]):
    """Item k: the pictures of chunk k that could be read, and for each sample None or what is wrong with it."""

    source: Source
    chunks: list[NDArray[np.int64]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, k: int) -> tuple[Tensor, list[str | None]]:
        read = [_read(self.source, int(i)) for i in self.chunks[k]]
        good = [picture for picture in read if not isinstance(picture, DataError)]
        pictures = torch.from_numpy(np.stack(good)) if good else torch.zeros(0, *self.source.shape, dtype=torch.uint8)
        return pictures, [str(p) if isinstance(p, DataError) else None for p in read]


def _read(source: Source, i: int) -> Picture | DataError:
    try:
        return source.read(i)
    except DataError as error:
        return error
