"""Features in place of pictures: computed once by a frozen backbone, then handed to any learner as bytes.

A backbone that never changes gives the same features whenever it sees a sample. Packed, a sample is ``[1, 1, 4d]``
bytes: d float32 values. Batches, memory and checkpoints carry them as they carry pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.models.model import Model


def pack(features: Tensor) -> Tensor:
    """Float features ``[n, d]`` as bytes ``[n, 1, 1, 4d]``.

    Examples
    --------
    >>> pack(torch.tensor([[1.0, -2.0]])).shape
    torch.Size([1, 1, 1, 8])
    """
    return features.detach().float().cpu().contiguous().view(torch.uint8)[:, None, None, :]


def unpack(packed: Tensor) -> Tensor:
    """What `pack` was given, to the bit.

    Examples
    --------
    >>> unpack(pack(torch.tensor([[1.0, -2.0]]))).tolist()
    [[1.0, -2.0]]
    """
    return packed.contiguous().view(torch.float32).flatten(1)


class PackedModel(Model):
    """A model whose inputs are features: its backbone does nothing, its head grows as every model's does.

    Examples
    --------
    >>> PackedModel(feature_dim=2).features(pack(torch.tensor([[1.0, -2.0]]))).tolist()
    [[1.0, -2.0]]
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(nn.Flatten(), feature_dim)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Packed features ``[n, 1, 1, 4d]`` to floats ``[n, 1, 1, d]``; floats are taken as they are."""
        return unpack(inputs)[:, None, None, :] if inputs.dtype == torch.uint8 else inputs
