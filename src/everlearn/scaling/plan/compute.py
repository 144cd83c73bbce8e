"""Time of one micro-batch on one device, block by block: matrix products, attention, memory traffic, launches."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import ceil

from everlearn.scaling.plan.cluster import Device
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.kernels import gemm_seconds, stream_seconds
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.stack import Stack


@dataclass(frozen=True)
class Work:
    """Seconds of a device by what it does."""

    gemm: float = 0.0
    attention: float = 0.0
    memory: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.gemm + self.attention + self.memory

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def __mul__(self, factor: float) -> Work:
        return Work(*(getattr(self, f.name) * factor for f in fields(Work)))


@dataclass(frozen=True)
class Passes:
    """A block's forward and backward, and the part of the forward that selective recomputation repeats."""

    forward: Work
    backward: Work
    core: Work = Work()

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward, self.core + other.core)

    def __mul__(self, factor: float) -> Passes:
        return Passes(self.forward * factor, self.backward * factor, self.core * factor)


@dataclass(frozen=True)
class Bench:
    """What a block is timed on: the device, the software, and what the layout leaves to one device.

    Parameters
    ----------
    device, stack
        Hardware and software.
    tp, cp, ep : int
        Tensor, context and expert parallelism.
    norm_split : int
        Ways by which norms and residuals are split.
    sequences, tokens : int
        Of one micro-batch; tokens of one device, context parallelism taken off.
    precision : str
        Of the linear layers' products.
    """

    device: Device
    stack: Stack
    tp: int
    cp: int
    ep: int
    norm_split: int
    sequences: int
    tokens: int
    precision: str

    @classmethod
    def of(cls, shape: ModelShape, layout: Layout, device: Device, stack: Stack) -> Bench:
        """The bench of a layout."""
        tokens = max(1, layout.micro_batch * shape.seq_len // layout.cp)
        split = layout.tp if layout.sequence_parallel else 1
        cut = (layout.tp, layout.cp, layout.ep, split)
        return cls(device, stack, *cut, layout.micro_batch, tokens, layout.precision)


def linear(bench: Bench, m: int, n: int, k: int, groups: int = 1) -> Passes:
    """A linear layer ``[m, k] → [m, n]``: a product forward, two backward, accumulation of gradients, fp8's casts."""
    device, precision = bench.device, bench.precision
    forward = gemm_seconds(m, n, k, device, precision, groups)
    backward = gemm_seconds(m, k, n, device, precision, groups)
    accumulate = 0.0
    if not bench.stack.frozen:
        backward += gemm_seconds(n, k, m, device, precision, groups)
        accumulate = 2.0 * bench.stack.gradient_bytes * groups * n * k
    cast = 0.0
    if precision in ("fp8", "mxfp8", "nvfp4"):
        cast = (4.0 if precision == "fp8" else 6.0) * groups * m  # read two bytes, write one along each axis; scales
    return Passes(
        Work(gemm=forward, memory=stream_seconds(cast * k, device)),
        Work(gemm=backward, memory=stream_seconds(accumulate + cast * n, device)),
    )


def traffic(bench: Bench, forward: float, backward: float) -> Passes:
    """Element-wise work, as bytes read and written forward and backward."""
    return Passes(
        Work(memory=stream_seconds(forward, bench.device)), Work(memory=stream_seconds(backward, bench.device))
    )


def norms(shape: ModelShape, bench: Bench) -> Passes:
    """One norm with its residual, and dropout where there is some."""
    width = bench.tokens * shape.hidden / bench.norm_split
    width *= bench.stack.norm_passes
    return traffic(bench, (11 if bench.stack.dropout else 10) * width, (19 if bench.stack.dropout else 14) * width)


def attention(shape: ModelShape, bench: Bench) -> Passes:
    """One attention layer: projections, rotation, the core."""
    h, a, d, t, m = shape.hidden, shape.heads, shape.head_dim, bench.tp, bench.tokens
    heads, kv = a // t, max(1, shape.kv_heads // t)
    if shape.kv_rank:
        qk = d + shape.rope_dim
        ranks = shape.q_rank or h
        passes = linear(bench, m, heads * qk, ranks) + linear(bench, m, heads * (d + shape.value_dim), shape.kv_rank)
        passes += linear(bench, m, shape.kv_rank + shape.rope_dim + shape.q_rank, h)
        kv = heads
    else:
        qk = d
        passes = linear(bench, m, (heads + 2 * kv) * d, h)
    passes += linear(bench, m, h, heads * shape.value_dim) + norms(shape, bench)
    width = m * qk * (heads + kv) * bench.stack.norm_passes
    passes += traffic(bench, 4.0 * width, 4.0 * width + 2.0 * width)
    return passes + core(shape, bench, heads, kv, qk)


def core(shape: ModelShape, bench: Bench, heads: int, kv: int, qk: int) -> Passes:
    """Scores, softmax and their product with the values."""
    device, s, sequences = bench.device, shape.seq_len, bench.sequences
    if bench.stack.fused_attention:
        seen = shape.attended(causal=True) / max(1, shape.attention_layers)
        flops = 2.0 * bench.tokens * seen * heads * (qk + shape.value_dim)
        # scores cost exponentials whatever the head's width: below 128 they bound the kernel
        rate = device.peak("bf16") * device.attention_efficiency * bench.stack.attention_share * min(1.0, qk / 128)
        forward = Work(attention=flops / rate)
        return Passes(forward, Work(attention=2.5 * flops / (0.8 * rate)), forward)
    batch, rows = sequences * heads, s // bench.cp
    scores = gemm_seconds(rows, s, qk, device, "bf16", batch) + gemm_seconds(
        rows, shape.value_dim, s, device, "bf16", batch
    )
    back = 2 * gemm_seconds(rows, qk, s, device, "bf16", batch) + gemm_seconds(rows, s, qk, device, "bf16", batch)
    back += gemm_seconds(s, shape.value_dim, rows, device, "bf16", batch)
    elements = float(batch) * rows * s
    forward = Work(attention=scores, memory=stream_seconds(9 * elements, device))
    return Passes(forward, Work(attention=back, memory=stream_seconds(11 * elements, device)), forward)


def feed_forward(shape: ModelShape, bench: Bench, width: int) -> Passes:
    """A dense feed-forward layer of the given width."""
    h, t, m = shape.hidden, bench.tp, bench.tokens
    inner = max(1, width // t)
    passes = linear(bench, m, inner * (2 if shape.gated else 1), h) + linear(bench, m, h, inner)
    wide = bench.stack.activation_passes * m * inner
    return passes + traffic(bench, (6 if shape.gated else 4) * wide, (10 if shape.gated else 6) * wide)


def experts(shape: ModelShape, bench: Bench) -> Passes:
    """Router, routed and shared experts, permutations. Tokens are split over tp, experts over ep, evenly routed."""
    h, tokens = shape.hidden, max(1, bench.tokens // bench.tp)
    width, f = shape.latent or h, shape.expert_ffn
    local = max(1, shape.experts // bench.ep)
    rows = tokens * shape.top_k
    each = 16 * ceil(rows / local / 16)  # padded, as the kernels want it
    passes = linear(bench, each, f * (2 if shape.gated else 1), width, local) + linear(bench, each, width, f, local)
    slack = 1 / GROUPED - 1
    passes += Passes(Work(gemm=passes.forward.gemm * slack), Work(gemm=passes.backward.gemm * slack))
    starts = 1e-6 * bench.stack.expert_start_us * local
    passes += Passes(Work(gemm=starts), Work(gemm=2 * starts))
    wide = bench.stack.activation_passes * rows * f
    passes += traffic(bench, (6 if shape.gated else 4) * wide, (10 if shape.gated else 6) * wide)
    moved = bench.stack.expert_row_bytes * rows * width
    passes += traffic(bench, moved, moved)
    passes += traffic(bench, tokens * (2 * h + 24 * shape.experts), tokens * (2 * h + 24 * shape.experts))
    if shape.latent:
        passes += linear(bench, tokens, width, h) + linear(bench, tokens, h, width)
    if shape.shared_ffn:
        passes += feed_forward(shape, bench, shape.shared_ffn)
    return passes


def mamba(shape: ModelShape, bench: Bench) -> Passes:
    """A Mamba-2 mixer: projections, short convolution, chunked scan."""
    h, t, m = shape.hidden, bench.tp, bench.tokens
    inner, state = shape.mamba_inner // t, 2 * shape.mamba_groups * shape.mamba_state // t
    passes = linear(bench, m, 2 * inner + state + shape.mamba_heads // t, h) + linear(bench, m, h, inner)
    chunk = 128
    flops = 2.0 * m * inner * (2 * shape.mamba_state + chunk)
    rate = bench.device.peak("bf16") * SCAN_EFFICIENCY
    passes += Passes(Work(attention=flops / rate), Work(attention=2.5 * flops / rate))
    return passes + traffic(bench, 30.0 * m * inner, 50.0 * m * inner) + norms(shape, bench)


def unembedding(shape: ModelShape, bench: Bench) -> Passes:
    """Output embedding and cross-entropy."""
    v, m = shape.vocab // bench.tp, bench.tokens
    device = bench.device
    forward = gemm_seconds(m, v, shape.hidden, device)
    backward, weights = gemm_seconds(m, shape.hidden, v, device), 0.0
    if not bench.stack.frozen:
        backward += gemm_seconds(v, shape.hidden, m, device)
        weights = 2.0 * bench.stack.gradient_bytes * v * shape.hidden
    size = (12.0, 10.0) if bench.stack.fused_loss else (38.0, 14.0)
    passes = Passes(Work(gemm=forward), Work(gemm=backward, memory=stream_seconds(weights, device)))
    return passes + traffic(bench, size[0] * m * v, size[1] * m * v)


@lru_cache(maxsize=4096)
def all_blocks(shape: ModelShape, bench: Bench) -> Passes:
    """All blocks of the model, on one device's share of each."""
    total = attention(shape, bench) * (shape.attention_layers + shape.mtp)
    if shape.dense_ffn_layers:
        total += (feed_forward(shape, bench, shape.ffn) + norms(shape, bench)) * shape.dense_ffn_layers
    if shape.moe_layers:
        total += (experts(shape, bench) + norms(shape, bench)) * (shape.moe_layers + shape.mtp)
    if shape.mamba_layers:
        total += mamba(shape, bench) * shape.mamba_layers
    return total


def repeated(passes: Passes, layout: Layout, stack: Stack) -> Work:
    """What the backward pass computes again: all, or the cheap part that `block_activations` does not keep."""
    if layout.recompute == "full":
        return passes.forward
    if layout.recompute == "selective":
        return Work(memory=passes.forward.memory) if stack.fused_attention else passes.core
    return Work()


# What a product in groups reaches of the same products one by one: uneven groups, padding, pointers to read first.
GROUPED = 0.7
# What the chunked scan of a Mamba-2 mixer reaches of the bf16 peak: short products between element-wise steps in fp32.
SCAN_EFFICIENCY = 0.017
# Host time where a tensor-parallel group has members on both sockets of its node: each sum waits for the slower side.
ACROSS_SOCKETS = 1.38


def launch_seconds(shape: ModelShape, layout: Layout, stack: Stack) -> float:
    """Host time to launch all blocks, forward and backward."""
    extra = stack.expert_host_us * (shape.moe_layers + shape.mtp) + stack.mamba_host_us * shape.mamba_layers
    blocks = 1e-6 * (stack.host_forward_us * shape.layers + extra)
    return blocks * (4 if layout.recompute == "full" else 3) * (ACROSS_SOCKETS if layout.tp > 4 else 1)
