"""Search: every layout of a model on a cluster that divides and fits, from fast to slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import Cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import RECOMPUTE, Layout, slots
from everlearn.scaling.plan.memory import memory_of
from everlearn.scaling.plan.plan import Plan, estimate
from everlearn.scaling.plan.stack import MODERN, Stack

LONG = 32768  # tokens of a sequence from which on context parallelism is tried
SAFE = 0.95  # of a device's memory that a searched layout may take


def search(
    shape: ModelShape,
    cluster: Cluster,
    global_batch: int,
    stack: Stack = MODERN,
    precision: str = "bf16",
    moment: Callable[[int, int], None] = lambda done, total: None,
) -> list[Plan]:
    """Plans that divide and fit, from fast to slow.

    Parameters
    ----------
    global_batch : int
        Sequences of a step.
    precision : str
        Of the linear layers' products.
    moment : callable
        Called with done and total as the search goes on.

    Raises
    ------
    SettingError
        If nothing divides, or nothing fits; says by how much.

    Examples
    --------
    >>> from everlearn.scaling.plan import load_cluster, load_shape, search
    >>> best = search(load_shape("llama3-8b"), load_cluster("h100:16"), global_batch=64)[0]
    >>> best.fits, best.layout.devices
    (True, 16)
    """
    cuts = list(cuts_of(shape, cluster, global_batch, precision))
    if not cuts:
        heads = f"{shape.layers} layers, {shape.heads} heads and {global_batch} sequences"
        raise SettingError(f"no layout of {heads} fills {cluster.devices} devices; change their number or the batch")
    room = SAFE * cluster.device.memory_gib * 2**30
    plans, least = [], float("inf")
    for done, cut in enumerate(cuts):
        moment(done, len(cuts))
        for micro in micro_batches(cut, global_batch):
            for layout in chunked(shape, replace(cut, micro_batch=micro)):
                found, need = _cheapest(shape, layout, stack, room)
                least = min(least, need)
                if found is not None:
                    plans.append(estimate(shape, found, cluster, stack))
    moment(len(cuts), len(cuts))
    if not plans:
        raise SettingError(
            f"{shape.name} fits no layout on {cluster.devices} devices: the leanest needs {least / 2**30:.0f} GiB, "
            f"and {SAFE:.0%} of {cluster.device.memory_gib:g} GiB may be used; take more devices or larger ones"
        )
    return sorted(plans, key=lambda plan: (plan.step_seconds, plan.memory.total))


def cuts_of(shape: ModelShape, cluster: Cluster, global_batch: int, precision: str) -> Iterator[Layout]:
    """Ways to fill the devices: tensor parallelism within a domain, pipelines that divide the layers, experts."""
    n = cluster.devices
    for tp in _powers(min(8, cluster.devices_per_domain, n)):
        if shape.heads % tp or shape.kv_heads % tp or shape.vocab % tp or n % tp:
            continue
        for cp in _powers(min(64, n // tp)) if shape.seq_len >= LONG else (1,):
            for pp in range(1, min(shape.layers, n // (tp * cp)) + 1):
                dp, rest = divmod(n, tp * cp * pp)
                if rest or global_batch % dp or slots(shape, Layout(pp=pp)) is None or shape.seq_len % cp:
                    continue
                for ep in _expert_ways(shape, dp * cp):  # as `everlearn pretrain` spreads them
                    for zero in (1, 3) if dp * cp > 1 and pp == 1 else (1,):
                        yield Layout(
                            dp, tp, pp, 1, cp, ep, 1, global_batch, zero, sequence_parallel=tp > 1, precision=precision
                        )


def micro_batches(cut: Layout, global_batch: int) -> list[int]:
    """Micro-batches that divide a replica's share of the batch."""
    own = global_batch // cut.dp
    return [b for b in (1, 2, 4, 8) if own % b == 0]


def chunked(shape: ModelShape, layout: Layout) -> Iterator[Layout]:
    """The layout with one chunk of the model a device, and with more where the layers divide."""
    yield layout
    if layout.pp > 1 and layout.microbatches % layout.pp == 0:
        for v in range(2, 11):
            if slots(shape, replace(layout, vpp=v)) is not None:
                yield replace(layout, vpp=v)


def _cheapest(shape: ModelShape, layout: Layout, stack: Stack, room: float) -> tuple[Layout | None, float]:
    """The layout with the least recomputation that fits, and the bytes of the leanest that was tried."""
    need = float("inf")
    for recompute in RECOMPUTE:
        layout = replace(layout, recompute=recompute)
        need = min(need, memory_of(shape, layout, stack).total)
        if need <= room:
            return layout, need
    return None, need


def _expert_ways(shape: ModelShape, devices: int) -> list[int]:
    if not shape.experts:
        return [1]
    return [e for e in _powers(min(devices, shape.experts)) if shape.experts % e == 0 and devices % e == 0]


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]
