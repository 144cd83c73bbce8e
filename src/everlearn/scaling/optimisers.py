"""AdamW, Muon and SGD over parameters that may be cut over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from everlearn.scaling.initialise import part, where
from everlearn.scaling.settings import Optimiser


class Muon(torch.optim.Optimizer):
    r"""Momentum, orthogonalised.

    .. math:: W \leftarrow W - \eta\,(0.2\sqrt{\max(n, m)}\,\mathrm{NS}(\mu M + G) + \lambda W)

    Jordan et al. 2024; the factor, which gives updates of AdamW's size, is Liu et al. 2025's (arXiv 2502.16982). Of a
    cut matrix every process orthogonalises the whole, so that all layouts take the same step; of stacked experts each
    one is a matrix of its own, and processes that hold whole experts need no others.

    Parameters
    ----------
    params : iterable of Parameter
        Matrices ``[n, m]`` or stacks of them ``[E, n, m]``.
    lr, momentum, weight_decay : float
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(parameter.grad)
                update = _whole(parameter.grad + group["momentum"] * momentum)
                size = 0.2 * max(parameter.shape[-2:]) ** 0.5
                step = _mine(orthogonalise(update), parameter).mul_(size)
                held = part(parameter)
                held.add_(step + group["weight_decay"] * held, alpha=-group["lr"])


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Newton–Schulz iteration towards the nearest (half-)orthogonal matrix: singular values to about 1.

    Examples
    --------
    >>> values = torch.linalg.svdvals(orthogonalise(torch.tensor([[3.0, 1.0], [0.0, 2.0]])))
    >>> bool(((values > 0.5) & (values < 1.5)).all())
    True
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if tall else y


def _by_expert(x: Tensor) -> bool:
    """Whether a stack is cut between its matrices only."""
    return isinstance(x, DTensor) and x.ndim == 3 and all(p.is_replicate() or p.is_shard(0) for p in x.placements)


def _whole(x: Tensor) -> Tensor:
    if not isinstance(x, DTensor):
        return x
    return x.to_local() if _by_expert(x) else x.full_tensor()


def _mine(full: Tensor, parameter: nn.Parameter) -> Tensor:
    if not isinstance(parameter, DTensor) or _by_expert(parameter):
        return full
    return full[where(parameter)]


def build(named: dict[str, nn.Parameter], settings: Optimiser) -> list[torch.optim.Optimizer]:
    """The optimisers of a run. Norms are not decayed; Muon has the matrices of the blocks, AdamW the rest."""
    matrices = {name: p for name, p in named.items() if p.ndim >= 2}
    if settings.name == "sgd":
        return [torch.optim.SGD(named.values(), settings.lr)]
    made: list[torch.optim.Optimizer] = []
    if settings.name == "muon":
        inner = [n for n in matrices if n.startswith("blocks.") and not n.endswith("router.weight")]
        if inner:
            held = [matrices.pop(name) for name in inner]
            made.append(Muon(held, settings.lr, weight_decay=settings.weight_decay))
    decayed = list(matrices.values())
    rest = [p for p in named.values() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if groups:
        made.append(torch.optim.AdamW(groups, settings.lr, settings.betas, settings.eps, fused=True))
    return made
