"""Attention over sequences that are split over processes.

`Ulysses` (Jacobs et al. 2023, arXiv 2309.14509): an all-to-all gives each process all tokens of some heads. `AllGather`
(as in Llama 3, arXiv 2407.21783): each process gathers all keys and values for its own queries.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from everlearn.models.language import Context, attend
from everlearn.scaling.collectives import all_gather, all_to_all


class Ulysses:
    """Sequence split to heads split and back; tokens must be in runs of equal length, in order."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __call__(self, q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, window: int = 0) -> Tensor:
        """Local queries, keys, values to the local part of attention's output."""
        size = self.group.size()
        copies = 1
        while k_BSKH.shape[2] * copies % size:  # fewer key/value heads than processes
            copies += 1
        k, v = (x.repeat_interleave(copies, 2) for x in (k_BSKH, v_BSKH))
        out = attend(self._to_heads(q_BSNH), self._to_heads(k), self._to_heads(v), window)
        return self._to_tokens(out)

    def _to_heads(self, x_BSNH: Tensor) -> Tensor:
        parts = torch.stack(x_BSNH.chunk(self.group.size(), 2))  # [P, B, S/P, N/P, H]
        return torch.cat(all_to_all(parts, self.group).unbind(0), 1)

    def _to_tokens(self, x_BSNH: Tensor) -> Tensor:
        parts = torch.stack(x_BSNH.chunk(self.group.size(), 1))
        return torch.cat(all_to_all(parts, self.group).unbind(0), 2)


class AllGather:
    """Local queries against everyone's keys and values."""

    def __init__(self, group: dist.ProcessGroup, context: Context) -> None:
        self.group, self.context = group, context

    def __call__(self, q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, window: int = 0) -> Tensor:
        """Local queries, keys, values to the local part of attention's output."""
        tokens, device = q_BSNH.shape[1], q_BSNH.device
        k, v = (all_gather(x, 1, self.group) for x in (k_BSKH, v_BSKH))
        theirs = torch.cat([self.context.positions(tokens, device, rank) for rank in range(self.context.size)])
        return attend(q_BSNH, k, v, window, places=(self.context.positions(tokens, device), theirs))
