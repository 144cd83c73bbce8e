"""Memory's classes as the host knows them, for policies that decide sample by sample.

Where a decision rests on the one before it, counts are wanted between any two. Labels are on the host before they are
on the device: kept there, they let a policy decide on a whole batch without making an accelerator wait.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from everlearn.memory.memory import Memory


class HostClasses:
    """The class of each slot, read off memory only where another than this policy has written to it.

    Attributes
    ----------
    held : numpy.ndarray
        ``[capacity]`` class indices, −1 where a slot is free; free slots are the last ones.

    Examples
    --------
    >>> import torch
    >>> memory, host = Memory(2), HostClasses()
    >>> pictures, targets, ids = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1]), torch.arange(3)
    >>> host.offer(memory, pictures, targets, ids, 0, lambda label: host.free if label == 0 else 0, classes=2)
    >>> host.held.tolist(), memory.ids[:2].tolist()
    ([1, 0], [2, 1])
    """

    def __init__(self) -> None:
        self.held = np.zeros(0, dtype=np.int64)
        self._writes = -1

    @property
    def free(self) -> int | None:
        """The first free slot; None where memory is full."""
        taken = int((self.held >= 0).sum())
        return taken if taken < len(self.held) else None

    def counts(self, classes: int) -> np.ndarray:
        """``[classes]`` slots that each class holds."""
        return np.bincount(self.held[self.held >= 0], minlength=classes)

    def one_of(self, label: int, u: float) -> int:
        """The slot of a class that u, drawn from [0, 1), falls on."""
        members = np.flatnonzero(self.held == label)
        return int(members[int(u * len(members))])

    def offer(
        self,
        memory: Memory,
        inputs: Tensor,
        targets: Tensor,
        ids: Tensor,
        step: int,
        choose: Callable[[int], int | None],
        *,
        classes: int,
    ) -> None:
        """Ask ``choose`` for each sample's slot, None to let it go, in turn; then write once what stays.

        Parameters
        ----------
        memory : Memory
        inputs, targets, ids, step, classes
            As for `reservoir`, ``targets`` on the host.
        choose : callable
            Called with a sample's class; sees ``held`` with all samples before it in their slots. Where it takes a free
            slot, it takes ``free``.
        """
        if self._writes != memory.writes:
            self.held = np.full(memory.capacity, -1)
            if memory.size:
                self.held[: memory.size] = memory.targets[: memory.size].cpu().numpy()
        taken: dict[int, int] = {}  # the sample that a slot ends with
        for i, label in enumerate(targets.tolist()):
            slot = choose(label)
            if slot is not None:
                self.held[slot], taken[slot] = label, i
        memory.offered += len(targets)
        over = [slot for slot in taken if slot < memory.size]
        new = sorted(slot for slot in taken if slot >= memory.size)
        if over:
            of = torch.tensor([taken[slot] for slot in over])
            at = of.to(inputs.device, non_blocking=True)
            memory.write(torch.tensor(over), inputs[at], targets[of], ids[of], step, classes=classes)
        if new:
            of = torch.tensor([taken[slot] for slot in new])
            at = of.to(inputs.device, non_blocking=True)
            memory.append(inputs[at], targets[of], ids[of], step, classes=classes)
        self._writes = memory.writes
