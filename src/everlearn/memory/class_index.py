"""Which memory slots hold which class, kept up to date in O(changed) and without leaving the device.

Row c + 1 of ``rows`` lists the slots of class c in its first ``counts[c]`` places, in no particular order; ``place``
says where in its row a slot stands. Row 0 belongs to nobody: it takes the entries of a masked write, so that every
write has a fixed shape and an accelerator never waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ClassIndex:
    """Slots by class for ``capacity`` slots and one scratch slot behind them.

    Examples
    --------
    >>> import torch
    >>> index = ClassIndex(capacity=4)
    >>> index.move(torch.tensor([0, 1, 2]), old=torch.tensor([-1, -1, -1]), new=torch.tensor([0, 1, 0]), classes=2)
    >>> index.move(torch.tensor([0]), old=torch.tensor([0]), new=torch.tensor([1]), classes=2)
    >>> index.counts.tolist(), sorted(index.slots(1).tolist())
    ([1, 2], [0, 1])
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self.rows = torch.zeros(1, capacity + 1, dtype=torch.int64, device=device)
        self._counts = torch.zeros(1, dtype=torch.int64, device=device)
        self.place = torch.zeros(capacity + 1, dtype=torch.int64, device=device)
        self._leaves = torch.zeros(capacity + 1, dtype=torch.bool, device=device)

    @property
    def counts(self) -> Tensor:
        """``[classes]`` remembered samples of each class."""
        return self._counts[1:]

    def slots(self, label: int) -> Tensor:
        """Slots that hold a class."""
        return self.rows[label + 1, : int(self._counts[label + 1])].clone()

    def move(self, slots: Tensor, old: Tensor, new: Tensor, classes: int) -> None:
        """Take slots out of their old class and enter them into the new one; −1 stands for no class.

        Slots are distinct, save that the scratch slot may come several times (with −1 for both classes).
        """
        if classes + 1 > len(self.rows):
            more = max(classes + 1, 2 * len(self.rows)) - len(self.rows)
            self.rows = torch.cat([self.rows, self.rows.new_zeros(more, self.capacity + 1)])
        if classes + 1 > len(self._counts):
            self._counts = torch.cat([self._counts, self._counts.new_zeros(classes + 1 - len(self._counts))])
        self._leave(slots, old + 1)
        self._enter(slots, new + 1)

    def _leave(self, slots: Tensor, row: Tensor) -> None:
        """Fill the holes below the new end of each row with the survivors behind it."""
        order = torch.argsort(row, stable=True)
        slots, row = slots[order], row[order]
        end = self._counts.clone().scatter_add_(0, row, -torch.ones_like(row))
        tail = self.rows[row, (end[row] + _rank(row)).clamp(min=0)]
        self._leaves[slots] = True
        survives = ~self._leaves[tail] & (row > 0)
        self._leaves[slots] = False
        hole = (self.place[slots] < end[row]) & (row > 0)
        # as many survivors as holes in every row: put both first within their row, then they pair up
        to = torch.argsort(2 * row + (~hole).long(), stable=True)
        by = torch.argsort(2 * row + (~survives).long(), stable=True)
        place = torch.where(hole[to], self.place[slots[to]], 0)
        slot = torch.where(hole[to], tail[by], self.capacity)
        self.rows[torch.where(hole[to], row, 0), place] = slot
        self.place[slot] = place
        self._counts = end
        self._counts[0] = 0

    def _enter(self, slots: Tensor, row: Tensor) -> None:
        order = torch.argsort(row, stable=True)
        slots, row = slots[order], row[order]
        place = torch.where(row > 0, self._counts[row] + _rank(row), 0)
        self.rows[row, place] = slots
        self.place[slots] = place
        self._counts.scatter_add_(0, row, torch.ones_like(row))
        self._counts[0] = 0


def _rank(row: Tensor) -> Tensor:
    """0, 1, 2 … within each run of equal entries of a sorted tensor."""
    return torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
