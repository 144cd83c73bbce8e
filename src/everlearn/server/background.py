"""Work behind the scenes: it may take its time, so that it never holds up a prediction."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

_NICE = 10


def step_back() -> None:
    """Give the calling thread a lower priority than those that answer requests, where the system knows such a thing."""
    with suppress(OSError, AttributeError):  # on Linux a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
