"""Foreign frames: a sample whose region is known is shown within the surroundings of another one of its step.

Background exchange as augmentation (Xiao, Engstrom, Ilyas, Madry 2020, *Noise or Signal: The Role of Image Backgrounds
in Object Recognition*, arXiv 2006.09994, their Mixed-Rand): what surrounds the region then says nothing of the class,
so a shortcut through it is no use. `reasons.py`'s penalties look at maps; this takes the shortcut away.
"""

from __future__ import annotations

import torch
from torch import Tensor


def in_foreign_frames(inputs: Tensor, regions: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each sample in the box around its region, another sample of the step around that box.

    Parameters
    ----------
    inputs : Tensor
        ``[n, C, H, W]``.
    regions : Tensor
        ``[n, 1, H, W]`` in 0..1; a sample whose region is all of its picture stays as it is.
    share : float
        Of the samples that are exchanged, at random; the frames are the step's own in a random order.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor
        Of the shape and type of the inputs.

    Examples
    --------
    >>> import torch
    >>> x, left = torch.tensor([[[[1, 1]]], [[[2, 2]]]]), torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]])
    >>> seen = in_foreign_frames(x, left, 1.0, torch.Generator().manual_seed(1))
    >>> seen[:, 0, 0, 0].tolist(), sorted(seen[:, 0, 0, 1].tolist())
    ([1, 2], [1, 2])
    """
    n = len(inputs)
    other = torch.randperm(n, generator=generator).to(inputs.device)
    chosen = (torch.rand(n, generator=generator) < share).to(inputs.device)
    own = box(regions) | ~chosen[:, None, None, None]
    return torch.where(own, inputs, inputs[other])


def box(regions: Tensor) -> Tensor:
    """``[n, 1, H, W]`` bools: the smallest rectangle around each region; all of the picture where it is empty.

    Examples
    --------
    >>> box(torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]]))[0, 0].int()
    tensor([[0, 1, 1],
            [0, 1, 1]], dtype=torch.int32)
    """
    inside = regions > 0.5
    rows, columns = _between(inside.any(3)), _between(inside.any(2))
    return (rows[..., None] & columns[..., None, :]) | ~inside.any(3).any(2)[..., None, None]


def _between(there: Tensor) -> Tensor:
    """``[n, 1, k]``: from the first to the last that is there."""
    there = there.int()
    return (there.cumsum(2) > 0) & (there.flip(2).cumsum(2) > 0).flip(2)
