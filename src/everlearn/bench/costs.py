"""What learning costs in seconds; in forward passes: `everlearn.learners.forwards`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from everlearn.learners.device import default_device


def clock_of() -> Callable[[], float]:
    """Processor time for one thread on a CPU, else the wall's."""
    alone = default_device().type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter
