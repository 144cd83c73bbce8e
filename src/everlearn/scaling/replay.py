"""Replay in pretraining: a bounded memory of an earlier corpus's windows, mixed into what is read now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
    """

    def __init__(self, sampler: Sampler, earlier: Sequence[Tokens], share: float, memory: int = 0) -> None:
        self.sampler, self.earlier = sampler, list(earlier)
        self.windows = sampler.windows
        self.old = [(len(file) - 1) // sampler.seq_len for file in self.earlier]
        if min(self.old, default=0) < 1:
            short = next((file.file for file, n in zip(self.earlier, self.old) if n < 1), "no file")
            raise DataError(f"replay of {short}: it has no window of {sampler.seq_len} tokens; give a longer one")
        self.size = min(memory, sum(self.old)) or sum(self.old)
        self.share = round(2**32 * share)
        self._key = mix(sampler.seed * 1000003 + 77)

    def window(self, n: int) -> tuple[bool, int, int]:
        """Whether the n-th sequence is replayed, and its file and window."""
        before, after = (n * self.share) >> 32, ((n + 1) * self.share) >> 32
        if after == before:
            return False, *self.sampler.window(n - before)
        epoch, index = divmod(before, self.size)
        slot = place(self.size, index, key=mix(self._key + epoch + 1))
        return True, *self.held(slot)

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
            start = window * self.sampler.seq_len
            rows.append(array[start : start + self.sampler.seq_len + 1].astype(np.int64))
        both = torch.from_numpy(np.stack(rows))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()
