"""What a method keeps beside memory's slots: which of them a step has just filled, and with which of its samples."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.memory import Memory


def arrivals(memory: Memory, ids: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Slots that hold samples of this step's batch, found without leaving memory's device.

    Parameters
    ----------
    memory : Memory
        After the batch was offered.
    ids : Tensor
        ``[n]`` of the batch, all different.
    step : int
        At which the batch was offered.

    Returns
    -------
    new, position : Tensor
        ``[size]`` bool, and ``[size]`` the sample's position in the batch where ``new`` holds.

    Examples
    --------
    >>> import torch
    >>> memory = Memory(3)
    >>> memory.append(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), torch.tensor([5]), step=0)
    >>> memory.append(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([8, 5]), step=1)
    >>> arrivals(memory, torch.tensor([5, 8]), step=1)
    (tensor([False,  True,  True]), tensor([0, 1, 0]))
    """
    held = memory.ids[: memory.size]
    same = held[:, None] == ids.to(memory.device, non_blocking=True)
    return memory.steps[: memory.size] == step, same.to(torch.uint8).argmax(1)
