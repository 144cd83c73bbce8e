"""Collectives of a step: how many, of how many bytes, over which devices, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from everlearn.scaling.plan.cluster import Cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout, slots
from everlearn.scaling.plan.memory import weights_of
from everlearn.scaling.plan.stack import Stack

ALL_TO_ALL = 0.78  # what an all-to-all of unequal parts reaches of a ring's bandwidth


@dataclass(frozen=True)
class Collective:
    """``count`` collectives of a kind in one step of one device of the fullest stage.

    Parameters
    ----------
    kind : str
        all_reduce, all_gather, reduce_scatter, all_to_all or send.
    group : str
        tp, dp, cp, ep or pp: the dimension of the layout it runs over.
    size : int
        Devices of the group.
    bytes : float
        Of the whole tensor that is reduced or gathered; of what one device sends in an all_to_all or a send.
    count : int
        How many in a step.
    """

    kind: str
    group: str
    size: int
    bytes: float
    count: int


@dataclass(frozen=True)
class Wire:
    """What a group of devices has between them: bytes/s of one device, and seconds of one step."""

    bandwidth: float
    latency: float


def wire(cluster: Cluster, size: int, stride: int, rails: bool = True) -> Wire:
    """The slowest link of a ring over ``size`` devices, ``stride`` apart.

    A group that fits a domain uses its links. One that crosses domains puts ``size`` within each of them on the network
    cards of the domain, which it shares with the other groups: so it has the cards of its own devices.
    """
    inside = max(1, min(size, cluster.devices_per_domain // stride if stride < cluster.devices_per_domain else 1))
    near = 1e9 * cluster.domain_gb_s * cluster.domain_efficiency
    if size <= inside:
        return Wire(near, 1e-6 * cluster.domain_latency_us)
    far = 1e9 * cluster.network_gb_s * cluster.network_efficiency * (inside if rails else 1)
    return Wire(min(near, far), 1e-6 * cluster.network_latency_us)


def ring_seconds(kind: str, size: int, amount: float, over: Wire) -> float:
    """Seconds of one collective: 2(n−1)/n of the bytes for an all-reduce, (n−1)/n for its halves, and the start."""
    if size < 2:
        return 0.0
    rounds = 2 if kind == "all_reduce" else 1
    share = 1.0 if kind == "send" else (size - 1) / size
    return rounds * share * amount / over.bandwidth + over.latency


def expert_wire(cluster: Cluster, layout: Layout, top_k: int) -> tuple[Wire, float]:
    """Links of the all-to-all of experts, and the share of the routed rows that go over them.

    Within a domain every row travels. Between domains a token travels once to each domain that has one of its experts.
    """
    near = 1e9 * cluster.domain_gb_s * cluster.domain_efficiency * ALL_TO_ALL
    if layout.ep <= cluster.devices_per_domain:
        return Wire(near, 1e-6 * cluster.domain_latency_us), (layout.ep - 1) / layout.ep
    domains = ceil(layout.ep / cluster.devices_per_domain)
    visited = domains * (1 - (1 - 1 / domains) ** top_k) * (domains - 1) / domains
    far = 1e9 * cluster.network_gb_s * cluster.network_efficiency * ALL_TO_ALL
    return Wire(far, 1e-6 * cluster.network_latency_us), visited / top_k


def tensor_collectives(shape: ModelShape, layout: Layout, micro: int, regathers: bool = True) -> list[Collective]:
    """Tensor parallelism of one micro-batch through all blocks: two sums forward, two backward, again if recomputed."""
    if layout.tp == 1:
        return []
    amount = 2.0 * layout.micro_batch * shape.seq_len * shape.hidden / layout.cp
    layers = shape.attention_layers + shape.dense_ffn_layers + shape.mamba_layers
    if shape.shared_ffn or shape.moe_layers:
        layers += shape.moe_layers
    passes = 3 if layout.recompute == "full" else 2
    if layout.sequence_parallel:
        gathers = Collective("all_gather", "tp", layout.tp, amount, layers * (passes + regathers) * micro)
        return [gathers, Collective("reduce_scatter", "tp", layout.tp, amount, layers * passes * micro)]
    return [Collective("all_reduce", "tp", layout.tp, amount, layers * passes * micro)]


def step_collectives(shape: ModelShape, layout: Layout, stack: Stack) -> list[Collective]:
    """Every collective of one step on one device of the fullest stage of a plan."""
    micro = layout.microbatches
    share = (slots(shape, layout) or ceil(shape.layers / layout.pp)) / shape.layers
    found = [_scaled(c, share) for c in tensor_collectives(shape, layout, micro, stack.regathers)]
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    passes = 3 if layout.recompute == "full" else 2
    if layout.ep > 1:
        held = tokens if stack.splits_experts else tokens / layout.tp
        rows = 2.0 * held * shape.top_k * (shape.latent or shape.hidden)
        count = round(2 * passes * (shape.moe_layers + shape.mtp) * share) * micro
        found.append(Collective("all_to_all", "ep", layout.ep, rows, count))
    if layout.cp > 1:
        kv = 4.0 * tokens * layout.cp * max(1, shape.kv_heads // layout.tp) * shape.head_dim
        count = round(shape.attention_layers * share) * micro
        found.append(Collective("all_gather", "cp", layout.cp, kv, (passes - 1 + stack.regathers) * count))
        found.append(Collective("reduce_scatter", "cp", layout.cp, kv, count))
    if layout.pp > 1:
        amount = 2.0 * tokens * shape.hidden / layout.tp
        found.append(Collective("send", "pp", 2, amount, 2 * layout.vpp * micro))
    return found + gradient_collectives(shape, layout, stack)


def gradient_collectives(shape: ModelShape, layout: Layout, stack: Stack) -> list[Collective]:
    """Reduction of gradients, and gathers of what ZeRO shards; experts apart, over fewer devices."""
    found = []
    dense, experts = weights_of(shape, layout)
    parts = layout.tp if stack.splits_experts else 1
    for parameters, size in (dense, layout.dp * layout.cp), (experts / parts, expert_replicas(layout) // parts):
        if size < 2 or not parameters:
            continue
        grads, weights = stack.gradient_bytes * parameters, 2.0 * parameters
        if layout.zero == 3:
            found.append(Collective("all_gather", "dp", size, weights, 2 * layout.microbatches))
            found.append(Collective("reduce_scatter", "dp", size, grads, layout.microbatches))
        elif layout.zero:
            found.append(Collective("reduce_scatter", "dp", size, grads, 1))
            found.append(Collective("all_gather", "dp", size, weights, 1))
        else:
            found.append(Collective("all_reduce", "dp", size, grads, 1))
    return found


def expert_replicas(layout: Layout) -> int:
    """Devices that hold the same experts."""
    return max(1, layout.dp * layout.cp * layout.tp // layout.ep)


def _scaled(collective: Collective, share: float) -> Collective:
    return Collective(
        collective.kind, collective.group, collective.size, collective.bytes, round(collective.count * share)
    )
