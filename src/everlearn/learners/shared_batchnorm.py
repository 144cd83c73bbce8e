"""BatchNorm over the samples of all processes: each normalises its own by everyone's mean and variance.

PyTorch's SyncBatchNorm does the same on CUDA alone; this is for any device and backend, and for every layer that calls
`torch.nn.functional.batch_norm`, whatever its class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def shared_batchnorm(several: bool) -> Iterator[None]:
    """Within it BatchNorm in training mode works on the samples of all processes, which pass through it together."""
    if not several:
        yield
        return
    with _Shared():
        yield


class _Shared(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        known: dict[str, Any] = kwargs or {}
        if func is F.batch_norm and known["training"]:
            return batch_norm(
                args[0], args[1], args[2], known["weight"], known["bias"], known["momentum"], known["eps"]
            )
        return func(*args, **known)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalised ``[n, C, …]``; n may be 0 here as long as others have samples. Running statistics are moved along."""
    C = x.shape[1]
    weight = torch.ones(C, device=x.device) if weight is None else weight
    bias = torch.zeros(C, device=x.device) if bias is None else bias
    y, mean, var, n = _BatchNorm.apply(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * n / (n - 1).clamp(min=1)).to(running_var.dtype), momentum)
    return y


class _BatchNorm(torch.autograd.Function):
    """y = w x̂ + b, x̂ = (x − μ)/√(σ² + ε); ∂L/∂x = w/√(σ² + ε) (∂y − (Σ∂y + x̂ Σ∂y x̂)/n), sums over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rest = [d for d in range(x.ndim) if d != 1]
        f = x.float()
        number = f.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        sums = torch.cat([f.sum(rest, dtype=torch.float64), f.square().sum(rest, dtype=torch.float64), number])
        dist.all_reduce(sums)
        n = sums[-1].clamp(min=1)
        mean, square = (sums[:-1] / n).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        scale = (var + eps).rsqrt().float()
        shape = [1, -1] + [1] * (x.ndim - 2)
        normal = (f - mean.float().view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, weight, scale, n)
        ctx.mark_non_differentiable(mean, var, n)
        y = normal * weight.view(shape) + bias.view(shape)
        return y.to(x.dtype), mean, var, n

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, weight, scale, n = ctx.saved_tensors
        rest = [d for d in range(dy.ndim) if d != 1]
        shape = [1, -1] + [1] * (dy.ndim - 2)
        f = dy.float()
        mine = torch.stack([f.sum(rest), (f * normal).sum(rest)])
        everyone = mine.clone()
        dist.all_reduce(everyone)
        towards, along = (everyone / n.float()).view(2, *shape)
        dx = (f - towards - normal * along) * (weight * scale).view(shape)
        return dx.to(dy.dtype), mine[1], mine[0], None
