"""Sums in one order: a step gives the same bits with any number of processes.

Floating-point addition is not associative, and a ring adds in an order that depends on its size. Here the passes of a
step, numbered as one process would take them, are the leaves of one binary tree. A process adds its own subtree, then
processes exchange sums with the one at distance 1, 2, 4, …: a sum of two is the same from both sides.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


class TreeSum:
    """Adds lists of tensors pairwise, as a binary tree over their order; holds one list for each level.

    Examples
    --------
    >>> import torch
    >>> tree = TreeSum()
    >>> for x in (1e8, 1.0, -1e8, 1.0):
    ...     tree.add([torch.tensor([x])])
    >>> tree.total()  # (1e8 + 1) + (1 − 1e8); from left to right it would be 1
    [tensor([0.])]
    """

    def __init__(self) -> None:
        self._sums: list[tuple[int, list[Tensor]]] = []

    def add(self, leaf: Iterable[Tensor]) -> None:
        """Add the next leaf. Its tensors are kept, and may be changed."""
        size, sums = 1, list(leaf)
        while self._sums and self._sums[-1][0] == size:
            _, before = self._sums.pop()
            torch._foreach_add_(before, sums)
            size, sums = 2 * size, before
        self._sums.append((size, sums))

    def total(self) -> list[Tensor]:
        """The sums over all leaves, as many as a power of two."""
        assert len(self._sums) == 1
        return self._sums[0][1]


def sum_over(tensors: list[Tensor], group: dist.ProcessGroup) -> None:
    """Sum tensors over the processes of a group, as many as a power of two, in place: by halves of the tree above.

    Each process sends and receives as much as it holds, log₂ of their number times.
    """
    mine = torch.cat([x.flatten() for x in tensors])
    theirs, rank = torch.empty_like(mine), dist.get_rank(group)
    distance = 1
    while distance < dist.get_world_size(group):
        other = dist.get_global_rank(group, rank ^ distance)
        both = [dist.P2POp(dist.isend, mine, other, group), dist.P2POp(dist.irecv, theirs, other, group)]
        for work in dist.batch_isend_irecv(both):
            work.wait()
        mine += theirs
        distance *= 2
    for x, summed in zip(tensors, mine.split([x.numel() for x in tensors])):
        x.copy_(summed.view_as(x))
