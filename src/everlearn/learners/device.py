"""Where learners compute, and how random draws within a network are bound to a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def mixed(*numbers: int) -> int:
    """One seed out of several numbers; PyTorch's generator on the CPU looks at 32 bits only.

    Examples
    --------
    >>> mixed(0, 1) != mixed(1, 0)
    True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and its kin draw from a seed; the global random state stays as it was."""
    accelerators: list[Any] = [] if device.type == "cpu" else [device.index or 0]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices=accelerators, device_type=kind):
        torch.manual_seed(seed)
        yield
