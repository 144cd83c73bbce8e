"""One step of a layout: compute, bubble, communication; and what follows for utilisation."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from everlearn.scaling.plan.cluster import Cluster
from everlearn.scaling.plan.collectives import (
    Collective,
    Wire,
    expert_replicas,
    expert_wire,
    gradient_collectives,
    ring_seconds,
    step_collectives,
    tensor_collectives,
    wire,
)
from everlearn.scaling.plan.compute import Bench, Passes, all_blocks, launch_seconds, repeated, unembedding
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout, slots
from everlearn.scaling.plan.memory import Memory, memory_of, weights_of
from everlearn.scaling.plan.stack import MODERN, Stack


@dataclass(frozen=True)
class Plan:
    """A layout of a training run on a cluster, with its memory and time.

    Parameters
    ----------
    shape, layout, cluster, stack
        What was planned.
    memory : Memory
        Bytes of the fullest device.
    step_seconds : float
        One optimiser step.
    parts : dict of str to float
        Seconds of a step by cause; they sum to ``step_seconds``.
    """

    shape: ModelShape
    layout: Layout
    cluster: Cluster
    stack: Stack
    memory: Memory
    step_seconds: float
    parts: dict[str, float]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step."""
        return self.layout.global_batch * self.shape.seq_len

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all devices in a second."""
        return self.tokens_per_step / self.step_seconds

    @property
    def tokens_per_second_per_device(self) -> float:
        """Tokens of one device in a second."""
        return self.tokens_per_second / self.layout.devices

    @property
    def model_tflops(self) -> float:
        """Model TFLOP/s of a device: recomputation not counted, attention over the whole sequence."""
        return 1e-12 * self.shape.flops_per_token * self.tokens_per_second_per_device

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation of the bf16 peak, 0..1 (above 1 is possible in fp8)."""
        return 1e12 * self.model_tflops / self.cluster.device.peak("bf16")

    @property
    def hardware_tflops(self) -> float:
        """TFLOP/s of a device, recomputation counted."""
        shape = self.shape
        blocks = shape.forward_flops() - 2 * shape.vocab * shape.hidden
        core = 2 * shape.attended() * shape.heads * (shape.head_dim + shape.rope_dim + shape.value_dim)
        cheap = 0.0 if self.stack.fused_attention else core
        again = {"full": blocks, "selective": cheap}.get(self.layout.recompute, 0.0)
        return 1e-12 * (shape.flops_per_token + again) * self.tokens_per_second_per_device

    @property
    def hfu(self) -> float:
        """Hardware FLOP utilisation of the bf16 peak, 0..1: recomputation counted."""
        return 1e12 * self.hardware_tflops / self.cluster.device.peak("bf16")

    @property
    def fits(self) -> bool:
        """Whether the fullest device's memory holds it."""
        return self.memory.total <= self.cluster.device.memory_gib * 2**30


def predict(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack = MODERN) -> Plan:
    """Memory and time of a layout.

    Raises
    ------
    SettingError
        If the layout does not divide the model, the batch or the cluster.

    Examples
    --------
    >>> from everlearn.scaling.plan import Layout, load_cluster, load_shape, predict
    >>> layout = Layout(tp=8, pp=64, micro_batch=1, global_batch=512, recompute="selective")
    >>> plan = predict(load_shape("dense-1t"), layout, load_cluster("a100:512"))
    >>> 0.4 < plan.mfu < 0.7
    True
    """
    layout.check(shape, cluster.devices)
    return estimate(shape, layout, cluster, stack)


def collectives_of(plan: Plan) -> list[Collective]:
    """Every collective of one step on one device of the fullest stage, to compare with those that real code issues.

    Returns
    -------
    list of Collective
        Grouped by kind and group; empty on one device.
    """
    return step_collectives(plan.shape, plan.layout, plan.stack)


def estimate(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack = MODERN) -> Plan:
    """`predict` without the checks: fractions of layers are allowed, as published rows with missing cells need."""
    parts = step_parts(shape, layout, cluster, stack)
    return Plan(shape, layout, cluster, stack, memory_of(shape, layout, stack), sum(parts.values()), parts)


def step_parts(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack) -> dict[str, float]:
    """Seconds of one step by cause."""
    m, p, v = layout.microbatches, layout.pp, layout.vpp
    bench = Bench.of(shape, layout, cluster.device, stack)
    blocks, head = all_blocks(shape, bench), unembedding(shape, bench) * (1 + shape.mtp)
    comm = block_communication(shape, layout, cluster, stack)
    model = _work_parts(blocks) | {"recompute": repeated(blocks, layout, stack).total} | comm
    launches = launch_seconds(shape, layout, stack)
    busy = sum(model.values())
    model["host"] = (busy**6 + launches**6) ** (1 / 6) - busy if stack.asynchronous else launches
    every = slots(shape, layout) or ceil(shape.layers / p)
    last = (every - (p * every - shape.layers)) / shape.layers if p > 1 else 1.0
    share = every / shape.layers
    parts = {name: m * share * seconds for name, seconds in model.items()}
    tail = sum(_work_parts(head).values())
    block_seconds = sum(model.values())
    longest = max(share * block_seconds, last * block_seconds + tail)
    total = block_seconds + tail  # one micro-batch through all stages
    parts["head"] = m * (longest - share * block_seconds)
    parts["bubble"] = (total - longest) / v if p > 1 else 0.0
    parts["pipeline"] = pipeline_seconds(shape, layout, cluster, stack)
    if not stack.frozen:
        parts["data"] = gradient_seconds(shape, layout, cluster, stack, sum(parts.values()))
        parts["optimiser"] = optimiser_seconds(shape, layout, cluster)
    return parts


def _work_parts(passes: Passes) -> dict[str, float]:
    work = passes.forward + passes.backward
    return {"gemm": work.gemm, "attention": work.attention, "memory": work.memory}


def block_communication(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack) -> dict[str, float]:
    """Exposed seconds of one micro-batch through all blocks: tensor, context and expert parallelism."""
    near = wire(cluster, layout.tp, 1)
    sums = tensor_collectives(shape, layout, 1, stack.regathers)
    tensor = sum(c.count * ring_seconds(c.kind, c.size, c.bytes, near) for c in sums)
    parts = {"tensor": tensor * (1 - stack.overlap_tensor)}
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    passes = 3 if layout.recompute == "full" else 2
    if layout.cp > 1:
        over = wire(cluster, layout.cp, layout.tp)
        kv = 4.0 * tokens * layout.cp * max(1, shape.kv_heads // layout.tp) * shape.head_dim
        seconds = ring_seconds("all_gather", layout.cp, kv, over) * (passes + stack.regathers) * shape.attention_layers
        parts["context"] = seconds * (1 - stack.overlap_tensor)
    if layout.ep > 1:
        over, share = expert_wire(cluster, layout, shape.top_k)
        rows = 2.0 * tokens / layout.tp * shape.top_k * (shape.latent or shape.hidden)
        seconds = (share * rows / over.bandwidth + over.latency) * 2 * passes * (shape.moe_layers + shape.mtp)
        parts["expert"] = seconds * (1 - stack.overlap_experts)
    return parts


def pipeline_seconds(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack) -> float:
    """Exposed seconds of sends between stages."""
    if layout.pp == 1:
        return 0.0
    over = _pipeline_wire(layout, cluster)
    amount = 2.0 * layout.micro_batch * shape.seq_len / layout.cp * shape.hidden / layout.tp
    each = 2 * ring_seconds("send", 2, amount, over)
    hidden = stack.overlap_pipeline if layout.vpp > 1 else 0.0  # without chunks a stage has nothing else to do
    steady = layout.microbatches * layout.vpp * each * (1 - hidden)
    return steady + (layout.pp - 1) * each


def _pipeline_wire(layout: Layout, cluster: Cluster) -> Wire:
    stride = layout.tp * layout.cp * layout.dp
    if stride * layout.pp <= cluster.devices_per_domain:
        return Wire(1e9 * cluster.domain_gb_s * cluster.domain_efficiency, 1e-6 * cluster.domain_latency_us)
    return Wire(1e9 * cluster.network_gb_s * cluster.network_efficiency, 1e-6 * cluster.network_latency_us)


def gradient_seconds(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack, compute: float) -> float:
    """Exposed seconds of gradient reduction and of what ZeRO gathers."""
    seconds = 0.0
    dense = layout.dp * layout.cp
    for c in gradient_collectives(shape, layout, stack):
        stride = layout.tp if c.size == dense and c.size != expert_replicas(layout) else max(layout.tp, layout.ep)
        over = wire(cluster, c.size, stride if layout.ep > 1 else layout.tp, stack.rails)
        seconds += c.count * ring_seconds(c.kind, c.size, c.bytes, over)
    hidden = 0.66 * compute if layout.zero == 3 else 0.66 * compute / layout.microbatches
    return max(seconds * (1 - stack.overlap_gradients), seconds - hidden * (stack.overlap_gradients > 0))


def optimiser_seconds(shape: ModelShape, layout: Layout, cluster: Cluster) -> float:
    """Reading and writing weights, moments and gradients."""
    seconds = 0.0
    for parameters, size in zip(weights_of(shape, layout), (layout.dp * layout.cp, expert_replicas(layout))):
        seconds += 40.0 * parameters / (size if layout.zero else 1) / cluster.device.bandwidth
    return seconds
