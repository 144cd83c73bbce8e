"""Replay in pretraining: a bounded memory of an earlier corpus's windows, mixed into what is read now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.errors import DataError
from everlearn.scaling.data import Sampler, Tokens, mix, place


class Replaying:
    """A sampler whose every so-many-th sequence is one of the memory's.

    The memory is a uniform sample of all windows of the earlier files, without replacement: what a reservoir (Vitter
    1985) holds at their end. It is drawn as the first ``memory`` places of a keyed permutation, so that, as with
    `Sampler`, the n-th sequence is a pure function of seed and n and a run resumes exactly.

    Parameters
    ----------
    sampler : Sampler
        Of the corpus that is learned now.
    earlier : sequence of Tokens
        The corpora learned before.
    share : float
        Of the sequences that are replayed, 0..1.
    memory : int
        Windows in the memory; 0: all of them.
    best : sequence of int, optional
        Slots of the memory that are replayed, such as those of the highest value; by default all.
    """

    def __init__(
        self,
        sampler: Sampler,
        earlier: Sequence[Tokens],
        share: float,
        memory: int = 0,
        best: Sequence[int] | None = None,
    ) -> None:
        self.sampler, self.earlier = sampler, list(earlier)
        self.windows = sampler.windows
        self.old = [(len(file) - 1) // sampler.seq_len for file in self.earlier]
        if min(self.old, default=0) < 1:
            short = next((file.file for file, n in zip(self.earlier, self.old) if n < 1), "no file")
            raise DataError(f"replay of {short}: it has no window of {sampler.seq_len} tokens; give a longer one")
        self.size = min(memory, sum(self.old)) or sum(self.old)
        self.best = None if best is None else list(best)
        if best is not None and not (best and 0 <= min(best) <= max(best) < self.size):
            raise DataError(f"{len(best)} windows chosen of a memory of {self.size}; value them anew")
        self.share = round(2**32 * share)
        self._key = mix(sampler.seed * 1000003 + 77)

    def window(self, n: int) -> tuple[bool, int, int]:
        """Whether the n-th sequence is replayed, and its file and window."""
        before, after = (n * self.share) >> 32, ((n + 1) * self.share) >> 32
        if after == before:
            return False, *self.sampler.window(n - before)
        size = self.size if self.best is None else len(self.best)
        epoch, index = divmod(before, size)
        slot = place(size, index, key=mix(self._key + epoch + 1))
        return True, *self.held(slot if self.best is None else self.best[slot])

    def held(self, slot: int) -> tuple[int, int]:
        """File and window in a slot of the memory."""
        at = place(sum(self.old), slot, key=self._key)
        for i, windows in enumerate(self.old):
            if at < windows:
                return i, at
            at -= windows
        raise IndexError(slot)

    def batch(self, step: int, global_batch: int, part: slice) -> tuple[Tensor, Tensor]:
        """Tokens and labels, ``[n, S]`` int64 each, of some of a step's sequences."""
        rows = []
        for j in range(global_batch)[part]:
            replayed, i, window = self.window(step * global_batch + j)
            array = (self.earlier if replayed else self.sampler.files)[i].array
            rows.append(self._row(array, window))
        return tokens_and_labels(rows)

    def remembered(self, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens and labels, ``[n, S]`` int64 each, of slots of the memory."""
        return tokens_and_labels([self._row(self.earlier[i].array, window) for i, window in map(self.held, slots)])

    def _row(self, array: NDArray[np.integer], window: int) -> NDArray[np.int64]:
        start = window * self.sampler.seq_len
        return array[start : start + self.sampler.seq_len + 1].astype(np.int64)


def tokens_and_labels(rows: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Rows of S + 1 tokens as S tokens and the S behind them."""
    both = torch.from_numpy(np.stack(rows))
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()
