"""What learning costs: seconds, and forward passes of single pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.learners import Learner
from everlearn.learners.device import default_device


@dataclass
class Forwards:
    """Pictures through the backbone while ``on``; a pass with gradients counts as three: its backward as two."""

    forwards: float = 0.0
    on: bool = False


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


def clock_of() -> Callable[[], float]:
    """Processor time for one thread on a CPU, else the wall's."""
    alone = default_device().type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter
