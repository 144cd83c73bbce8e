"""Gradients across a layout: their norm, clipping, and the sums that no wrapper makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from everlearn.scaling.mesh import Mesh


def gradient_norm(parameters: Iterable[nn.Parameter], mesh: Mesh) -> Tensor:
    """The norm of the whole gradient, as one process would have it: there, PyTorch's own to the last bit.

    Otherwise norms are taken of parameters that are cut the same way, and their squares summed over the processes that
    hold parts.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if mesh.root is None or mesh.layout.exact:
        return get_total_norm(_local(grads))
    cut: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = defaultdict(list)
    for grad in grads:
        over: tuple[dist.ProcessGroup, ...] = ()
        if isinstance(grad, DTensor):
            over = tuple(grad.device_mesh.get_group(i) for i, p in enumerate(grad.placements) if not p.is_replicate())
        cut[over].append(grad)
    total = torch.zeros(())
    for over, held in cut.items():
        value = get_total_norm(_local(held)).square()
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


def clip(parameters: Iterable[nn.Parameter], norm: Tensor | float, largest: float) -> None:
    """Scale gradients of a norm down to the largest, as `torch.nn.utils.clip_grad_norm_` does; 0 leaves them."""
    if not largest or norm <= largest:
        return
    grads = _local(p.grad for p in parameters if p.grad is not None)
    if grads:
        torch._foreach_mul_(grads, largest / (norm + 1e-6))


def _local(grads: Iterable[Tensor]) -> list[Tensor]:
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
