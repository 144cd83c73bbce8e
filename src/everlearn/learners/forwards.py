"""What learning computes, in forward passes of single pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.learners.learner import Learner


@dataclass
class Forwards:
    """Pictures through the backbone while ``on``; a pass with gradients counts as three: its backward as two."""

    forwards: float = 0.0
    on: bool = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """On for a piece of work."""
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def take(self) -> float:
        """What was counted since it was taken last."""
        taken, self.forwards = self.forwards, 0.0
        return taken


@contextmanager
def counting_forwards(learner: Learner) -> Iterator[Forwards]:
    """Count what a learner computes in forward-equivalents; its teacher and later copies of its model count too."""
    count = Forwards()

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if count.on:
            count.forwards += _pictures(args[0]) * (3 if torch.is_grad_enabled() else 1)

    modules = [learner.model.backbone] + ([learner.teacher.model.backbone] if learner.teacher else [])
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def _pictures(x: Tensor) -> int:
    """How many pictures a tensor holds, also where a function transform hides its batch dimension."""
    shape = x.shape[-3:]
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.numel() // max(1, shape.numel())
