"""What learning costs: seconds, and forward passes of single pictures."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from everlearn.learners.device import default_device
from everlearn.learners.forwards import Forwards, counting_forwards

__all__ = ["Forwards", "clock_of", "counting_forwards"]


def clock_of() -> Callable[[], float]:
    """Processor time for one thread on a CPU, else the wall's."""
    alone = default_device().type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter
