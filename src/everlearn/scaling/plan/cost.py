"""Days, money and energy of a run."""

from __future__ import annotations

from dataclasses import dataclass

from everlearn.scaling.plan.failures import failures_of
from everlearn.scaling.plan.plan import Plan

HOST_SHARE = 1.5  # power of a node for each watt of its accelerators: processors, memory, network, fans
COOLING = 1.2  # power usage effectiveness of the building


@dataclass(frozen=True)
class Cost:
    """What a run of so many tokens takes, failures counted.

    Parameters
    ----------
    tokens, steps : float
        Of the run.
    days, device_hours, usd, megawatt_hours : float
        Days from start to end, devices × hours, money at the device's price, energy with host and cooling.
    """

    tokens: float
    steps: float
    days: float
    device_hours: float
    usd: float
    megawatt_hours: float


def cost_of(plan: Plan, tokens: float) -> Cost:
    """Cost of training on ``tokens`` tokens.

    Examples
    --------
    >>> from everlearn.scaling.plan import Layout, load_cluster, load_shape, predict
    >>> layout = Layout(dp=6, tp=8, pp=64, global_batch=3072, recompute="full", sequence_parallel=False)
    >>> 60 < cost_of(predict(load_shape("dense-1t"), layout, load_cluster("a100:3072")), 450e9).days < 110
    True
    """
    seconds = tokens / plan.tokens_per_second / max(failures_of(plan).goodput, 1e-6)
    hours = seconds / 3600 * plan.cluster.devices
    device = plan.cluster.device
    energy = hours * device.watts * HOST_SHARE * COOLING / 1e6
    return Cost(tokens, tokens / plan.tokens_per_step, seconds / 86400, hours, hours * device.usd_per_hour, energy)
