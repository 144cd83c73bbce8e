"""Gradients across a layout: their norm, clipping, and the sums that no wrapper makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from everlearn.scaling.mesh import Mesh


def gradient_norm(parameters: Iterable[nn.Parameter], mesh: Mesh) -> Tensor:
    """The norm of the whole gradient, as one process would have it.

    Squares are summed within groups of parameters that are cut the same way, then over the processes that hold parts.
    """
    sums: dict[tuple[dist.ProcessGroup, ...], Tensor] = defaultdict(lambda: torch.zeros(()))
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            continue
        over: tuple[dist.ProcessGroup, ...] = ()
        if isinstance(grad, DTensor):
            over = tuple(grad.device_mesh.get_group(i) for i, p in enumerate(grad.placements) if not p.is_replicate())
            grad = grad.to_local()
        sums[over] = sums[over].to(grad.device) + torch.linalg.vector_norm(grad, dtype=torch.float32).square()
    total = torch.zeros(())
    for over, value in sums.items():
        for group in over:
            dist.all_reduce(value, group=group)
        total = total.to(value.device) + value
    if mesh.layout.pp > 1:
        dist.all_reduce(total, group=mesh.group("pp"))
    return total.sqrt()


def complete(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients that processes hold in part, as of norms under sequence parallelism."""
    for parameter in parameters:
        grad = parameter.grad
        if isinstance(grad, DTensor) and isinstance(parameter, DTensor) and grad.placements != parameter.placements:
            parameter.grad = grad.redistribute(placements=parameter.placements)


def sum_over(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Sum the gradients of copies."""
    for parameter in parameters:
        if parameter.grad is not None:
            grad = parameter.grad
            dist.all_reduce(grad.to_local() if isinstance(grad, DTensor) else grad, group=group)


def clip(parameters: Iterable[nn.Parameter], norm: float, largest: float) -> None:
    """Scale gradients of a norm down to the largest; 0 leaves them."""
    if not largest or norm <= largest:
        return
    grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
    if grads:
        torch._foreach_mul_(grads, largest / (norm + 1e-6))
