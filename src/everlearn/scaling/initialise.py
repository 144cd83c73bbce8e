"""The same initial weights in every layout: each tensor is a pure function of the seed and its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from everlearn.models.language import Language
from everlearn.models.mixture import Router

STD = 0.02


def initialise(model: Language, seed: int) -> None:
    """Fill parameters and buffers of a model or a stage, whole or sharded, in place.

    Matrices are normal with standard deviation 0.02; those that write to the residual stream have it divided by
    √(2 layers) (Radford et al. 2019); norms start at one.
    """
    layers = model.config.layers
    with torch.no_grad():
        for name, parameter in named(model):
            if name == "head.weight" and model.config.tied:
                name = "embed.weight"  # the last stage's copy of it
            full = draw(name, tuple(parameter.shape), seed, layers, parameter.device)
            part(parameter).copy_(full if not isinstance(parameter, DTensor) else full[where(parameter)])
        for module in model.modules():
            if isinstance(module, Router):
                module.bias.zero_()
                module.counts.zero_()


def named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by the plain model's names, whatever wraps its modules."""
    for name, parameter in model.named_parameters():
        yield plain(name), parameter


def plain(name: str) -> str:
    """A name without what recomputation and compilation put into it.

    Examples
    --------
    >>> plain("blocks.0._checkpoint_wrapped_module.feed.up.weight")
    'blocks.0.feed.up.weight'
    """
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def draw(name: str, shape: tuple[int, ...], seed: int, layers: int, device: torch.device | str = "cpu") -> Tensor:
    """The initial value of a parameter.

    Examples
    --------
    >>> torch.equal(draw("head.weight", (3, 2), 0, 4), draw("head.weight", (3, 2), 0, 4))
    True
    """
    if len(shape) == 1:
        return torch.ones(shape, device=device)
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
    writes_residual = name.endswith((".o.weight", ".down.weight", ".down"))
    std = STD / (2 * layers) ** 0.5 if writes_residual else STD
    return torch.randn(shape, generator=generator, device=device) * std


def where(parameter: DTensor) -> tuple[slice, ...]:
    """The slices of the whole tensor that this process holds."""
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(slice(start, start + size) for start, size in zip(offset, shape))


def part(parameter: nn.Parameter) -> Tensor:
    """The tensor that this process holds."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data
