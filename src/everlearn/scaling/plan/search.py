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
GIVE = 0.1  # share by which the batch may change so that a layout divides it


def search(
    shape: ModelShape,
    cluster: Cluster,
    global_batch: int,
    stack: Stack = MODERN,
    precision: str = "bf16",
    moment: Callable[[int, int], None] = lambda done, total: None,
) -> list[Plan]:
    """Plans that divide and fit, from most tokens a second to fewest.

    Parameters
    ----------
    global_batch : int
        Sequences of a step; a layout that does not divide them gets the nearest number that it does, within a tenth.
    precision : str
        Of the linear layers' products.
    moment : callable
        Called with done and total as the search goes on.

    Raises
    ------
    SettingError
        If nothing divides, and what, or nothing fits, and by how much.

    Examples
    --------
    >>> from everlearn.scaling.plan import load_cluster, load_shape, search
    >>> best = search(load_shape("llama3-8b"), load_cluster("h100:16"), global_batch=64)[0]
    >>> best.fits, best.layout.devices
    (True, 16)
    """
    cuts = list(cuts_of(shape, cluster, global_batch, precision))
    if not cuts:
        raise SettingError(_undivided(shape, cluster, global_batch))
    room = SAFE * cluster.device.memory_gib * 2**30
    plans = []
    leanest: tuple[float, str] = (float("inf"), "")
    for done, cut in enumerate(cuts):
        moment(done, len(cuts))
        for layout in (chunks for batched in batches(cut, global_batch) for chunks in chunked(shape, batched)):
            found, need = _cheapest(shape, layout, stack, room)
            leanest = min(leanest, (need, layout.words.split(" mb")[0]))
            if found is not None:
                plans.append(estimate(shape, found, cluster, stack))
    moment(len(cuts), len(cuts))
    if not plans:
        raise SettingError(
            f"{shape.name} fits no layout on {cluster.devices} devices: the leanest, {leanest[1]}, needs "
            f"{leanest[0] / 2**30:.0f} GiB, and {SAFE:.0%} of {cluster.device.memory_gib:g} GiB may be used; "
            "take more devices or larger ones"
        )
    return sorted(plans, key=lambda plan: (-plan.tokens_per_second, plan.memory.total))


def cuts_of(shape: ModelShape, cluster: Cluster, global_batch: int, precision: str) -> Iterator[Layout]:
    """Ways to fill the devices: tensor parallelism within a domain, pipelines that divide the layers, experts."""
    n = cluster.devices
    for tp in _powers(min(8, cluster.devices_per_domain, n)):
        if _tp_rest(shape, tp) or n % tp:
            continue
        for cp in _powers(min(64, n // tp)) if shape.seq_len >= LONG else (1,):
            for pp in range(1, min(shape.layers, n // (tp * cp)) + 1):
                dp, rest = divmod(n, tp * cp * pp)
                if (
                    rest
                    or nearest(global_batch, dp) is None
                    or slots(shape, Layout(pp=pp)) is None
                    or shape.seq_len % cp
                ):
                    continue
                for ep in _expert_ways(shape, dp * cp):  # as `everlearn pretrain` spreads them
                    for zero in (1, 3) if dp * cp > 1 and pp == 1 else (1,):
                        yield Layout(
                            dp, tp, pp, 1, cp, ep, 1, global_batch, zero, sequence_parallel=tp > 1, precision=precision
                        )


def batches(cut: Layout, wanted: int) -> Iterator[Layout]:
    """The layout with each micro-batch, and the wanted batch or those next to it that divide, in chunks too."""
    for micro in (1, 2, 4, 8):
        unit = cut.dp * micro
        sizes = [wanted] if wanted % unit == 0 else [nearest(wanted, unit), nearest(wanted, unit * cut.pp)]
        for size in sorted({size for size in sizes if size is not None}):
            yield replace(cut, micro_batch=micro, global_batch=size)


def nearest(wanted: int, unit: int) -> int | None:
    """The multiple of ``unit`` next to what is wanted, or None if it is more than a tenth away.

    Examples
    --------
    >>> nearest(2048, 6), nearest(2048, 384), nearest(7, 4)
    (2046, 1920, None)
    """
    found = max(1, round(wanted / unit)) * unit
    return found if abs(found - wanted) <= GIVE * wanted else None


def chunked(shape: ModelShape, layout: Layout) -> Iterator[Layout]:
    """The layout with one chunk of the model a device, and with more where the layers divide."""
    yield layout
    if layout.pp > 1 and layout.microbatches % layout.pp == 0:
        for v in range(2, 11):
            if slots(shape, replace(layout, vpp=v)) is not None:
                yield replace(layout, vpp=v)


def _undivided(shape: ModelShape, cluster: Cluster, global_batch: int) -> str:
    """Which numbers of devices, layers, heads and sequences do not go together."""
    n = cluster.devices
    tps = [tp for tp in _powers(min(8, cluster.devices_per_domain, n)) if not (_tp_rest(shape, tp) or n % tp)]
    pps = [p for p in range(1, min(shape.layers, n) + 1) if n % p == 0 and slots(shape, Layout(pp=p)) is not None]
    return (
        f"no layout fills {n} devices: of dp × tp × pp = {n}, tp may be {_listed(tps)} (it must divide {shape.heads} "
        f"heads, {shape.kv_heads} kv_heads and {shape.vocab} words), pp {_listed(pps)} (of {shape.layers} layers), and "
        f"no dp that they leave comes within a tenth of dividing {global_batch} sequences; "
        "change the number of devices or the batch"
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "nothing"


def _tp_rest(shape: ModelShape, tp: int) -> int:
    return shape.heads % tp or shape.kv_heads % tp or shape.vocab % tp


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
