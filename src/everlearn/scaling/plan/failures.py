"""Failures: how often they come, how often to write a checkpoint, and what share of the time is useful."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from everlearn.scaling.plan.plan import Plan

DEVICES_OF_A_NODE = 8
RESTART_SECONDS = 600.0  # find the fault, replace the node, start the processes, read the checkpoint
HOST_BYTES_PER_SECOND = 10e9  # of one device
STATE_BYTES = 14.0  # of a parameter: 16-bit weights, fp32 master weights and two moments


@dataclass(frozen=True)
class Failures:
    """What failures cost a run.

    Parameters
    ----------
    mean_time : float
        M, seconds between interruptions of the whole run.
    checkpoint_seconds : float
        Seconds that writing one takes, beside training.
    stall_seconds : float
        C, seconds that training stands still for one: a copy from the devices to their hosts.
    interval : float
        τ, seconds between checkpoints that lose least, √(2 C M) (Young 1974), and no less than writing takes.
    goodput : float
        Share of the time that trains, 0..1: 1 − C/τ − (τ/2 + writing + restart)/M.
    """

    mean_time: float
    checkpoint_seconds: float
    stall_seconds: float
    interval: float
    goodput: float


def mean_time_between_failures(devices: int, per_1000_node_days: float) -> float:
    """Seconds between interruptions of a run on so many devices; Llama 3's 419 in 54 days are 3.8 per 1000 node-days.

    Examples
    --------
    >>> round(mean_time_between_failures(16384, 3.79) / 3600, 1)
    3.1
    """
    nodes = max(1.0, devices / DEVICES_OF_A_NODE)
    return 86400 * 1000 / (max(per_1000_node_days, 1e-9) * nodes)


def young(checkpoint_seconds: float, mean_time: float) -> float:
    """Interval between checkpoints that loses least, √(2 C M) (Young 1974), at most M.

    Examples
    --------
    >>> round(young(40.0, 80000.0))
    2530
    """
    return min(mean_time, sqrt(2 * checkpoint_seconds * mean_time))


def failures_of(plan: Plan) -> Failures:
    """Failures of a plan on its cluster, with checkpoints written in the background."""
    cluster = plan.cluster
    mean_time = mean_time_between_failures(plan.layout.devices, cluster.failures_per_1000_node_days)
    state = STATE_BYTES * plan.shape.parameters
    written = state / (1e9 * cluster.storage_gb_s)
    stall = state / plan.layout.devices / HOST_BYTES_PER_SECOND
    interval = max(written, young(stall, mean_time))
    lost = stall / max(interval, 1e-9) + (interval / 2 + written + RESTART_SECONDS) / mean_time
    return Failures(mean_time, written, stall, interval, max(0.0, 1 - lost))
