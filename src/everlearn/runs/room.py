"""Whether what is to be remembered fits into the machine."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import torch

from everlearn.errors import SettingError
from everlearn.learners import Group
from everlearn.learners.device import default_device

_BESIDE = 64  # bytes of label, id, step and index beside each picture
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def check_fits(memory: int, shape: tuple[int, int, int], group: Group) -> None:
    """Refuse a memory of more samples than the machine, or its accelerator, can hold.

    Parameters
    ----------
    memory : int
        Samples, of all processes together.
    shape : tuple of int
        (C, H, W) of their pictures, one byte a value.
    group : Group
        The processes; this one holds its share.

    Examples
    --------
    >>> check_fits(1000, (3, 64, 64), Group())
    """
    there, each = room(), prod(shape) + _BESIDE
    needed = group.share_of_memory(memory) * each
    if there is not None and needed > there:
        raise SettingError(
            f"memory is {memory}: so many samples of {each} bytes take about {needed / 2**30:,.0f} GiB, and there are "
            f"{there / 2**30:,.0f}; expected a memory (--memory) well below {memory * there // needed}"
        )


def room() -> int | None:
    """Bytes of memory that the accelerator has, or else the machine, or the container in it; None if nobody knows."""
    device = default_device()
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such figures on this system
        return None
    try:
        return min(there, int(_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return there
