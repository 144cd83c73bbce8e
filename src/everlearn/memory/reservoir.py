"""Reservoir sampling: memory is at any time a uniform sample of all that came (Vitter 1985, ACM TOMS 11(1))."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.memory.memory import Memory


def reservoir(
    memory: Memory, inputs: Tensor, targets: Tensor, ids: Tensor, step: int, generator: torch.Generator, *, classes: int
) -> None:
    """Offer a batch: sample t (counted from 1 over all time) overwrites slot j ~ U{0 … t−1} if j < capacity.

    Parameters
    ----------
    memory : Memory
    inputs, targets, ids : Tensor
        ``[n, C, H, W]`` uint8, ``[n]`` class indices, ``[n]`` ids.
    step : int
        The learner's step, kept beside the sample.
    generator : torch.Generator
        On the CPU.
    classes : int
        Classes known so far.

    Examples
    --------
    >>> import torch
    >>> memory, rng = Memory(2), torch.Generator().manual_seed(0)
    >>> picture, target = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0])
    >>> for i in range(100):
    ...     reservoir(memory, picture, target, torch.tensor([i]), i, rng, classes=1)
    >>> memory.size, memory.offered
    (2, 100)
    """
    room = min(memory.capacity - memory.size, len(targets))
    if room:
        memory.append(inputs[:room], targets[:room], ids[:room], step, classes=classes)
    memory.offered += room
    rest = len(targets) - room
    if rest == 0:
        return
    t = memory.offered + 1 + torch.arange(rest)
    slot = (torch.rand(rest, generator=generator, dtype=torch.float64) * t).long()
    memory.offered += rest
    keep = slot < memory.capacity
    later = torch.triu(slot[:, None] == slot[None, :], 1).any(1)  # of two on one slot the later one stays
    chosen = torch.nonzero(keep & ~later).flatten()
    if len(chosen):
        of = room + chosen
        at = of.to(targets.device, non_blocking=True)
        memory.write(slot[chosen], inputs[at], targets[at], ids[of], step, classes=classes)
