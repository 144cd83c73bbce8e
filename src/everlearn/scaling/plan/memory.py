"""Memory of the fullest device: weights, gradients, optimiser, activations, buffers."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout, slots
from everlearn.scaling.plan.stack import Stack

CONTEXT_BYTES = 3.0e9  # driver context, libraries' workspaces, communicators' buffers
FRAGMENTS = 0.06  # of what the allocator hands out: blocks that fit nothing


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest device."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.buffers


def weights_of(shape: ModelShape, layout: Layout) -> tuple[float, float]:
    """Parameters of the fullest device before ZeRO: those every token uses, and routed experts."""
    share = (slots(shape, layout) or ceil(shape.layers / layout.pp)) / shape.layers
    routed = shape.moe_layers * shape.experts * shape.expert_parameters
    embedding = shape.embedding_parameters
    head = 0 if shape.tied and layout.pp == 1 else shape.vocab * shape.hidden
    outside = shape.embedding_parameters + (0 if shape.tied else shape.vocab * shape.hidden)
    dense = shape.parameters - routed - outside
    ends = max(embedding, head) if layout.pp > 1 else embedding + head
    return (dense * share + ends) / layout.tp, routed * share / layout.ep


def state_bytes(shape: ModelShape, layout: Layout, stack: Stack) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimiser (fp32 master weights and two moments)."""
    found = [0.0, 0.0, 0.0]
    replicas = (layout.dp * layout.cp, max(1, layout.dp * layout.cp * layout.tp // layout.ep))
    for parameters, size in zip(weights_of(shape, layout), replicas):
        if stack.frozen:
            found[0] += 2.0 * parameters
            continue
        found[0] += 2.0 * parameters / (size if layout.zero == 3 else 1)
        found[1] += stack.gradient_bytes * parameters / (size if layout.zero >= 2 else 1)
        shard = 16.0 if stack.gradient_bytes == 2 and layout.zero else 12.0  # the step needs its gradients in fp32
        found[2] += shard * parameters / (size if layout.zero >= 1 else 1)
    return found[0], found[1], found[2]


def block_activations(shape: ModelShape, layout: Layout, stack: Stack, recompute: str) -> float:
    """Bytes that one micro-batch leaves in all blocks.

    For GPT in 16 bits Korthikanti et al. 2022: s b h (34 + 5 a s / h), over the tensor-parallel ways. Inputs of fp8
    products are kept in one byte. Selective recomputation drops the scores where attention is not fused, and the
    results of norms, activation functions and permutations where it is.
    """
    if recompute == "full":
        return shape.layers * 2.0 * _tokens(shape, layout) * shape.hidden / _norm_split(layout)
    h, t, n = shape.hidden, layout.tp, _norm_split(layout)
    mask = 1 if stack.dropout else 0
    kept = 1 if layout.precision in ("fp8", "mxfp8", "nvfp4") else 2  # bytes of a linear layer's input
    again = 0 if recompute == "selective" and stack.fused_attention else 1
    inputs = again * kept * h / (n if stack.regathers else 1)
    outside = (2 * h + mask * h) / n + inputs
    qk = shape.head_dim + shape.rope_dim
    keys = shape.heads if shape.kv_rank else shape.kv_heads
    attention = outside + 2 * (shape.heads + keys) * qk / t + 2 * (shape.heads + keys) * shape.value_dim / t
    if recompute == "none" and not stack.fused_attention:
        attention += (4 + mask) * shape.heads * shape.seq_len / t
    inner = (4 if shape.gated else 2) + again * kept
    dense = outside + inner * shape.ffn / t
    rows = shape.top_k * (again * kept * (shape.latent or h) + inner * shape.expert_ffn)
    mixture = outside + (inner * shape.shared_ffn + rows) / t
    mixer = outside + 14 * shape.mamba_inner / t
    return _tokens(shape, layout) * (
        shape.attention_layers * attention
        + shape.dense_ffn_layers * dense
        + shape.moe_layers * mixture
        + shape.mamba_layers * mixer
    )


def _tokens(shape: ModelShape, layout: Layout) -> float:
    return layout.micro_batch * shape.seq_len / layout.cp


def _norm_split(layout: Layout) -> int:
    return layout.tp if layout.sequence_parallel else 1


def activation_bytes(shape: ModelShape, layout: Layout, stack: Stack) -> float:
    """Bytes of activations on the first stage, which holds most micro-batches, with the working set of one block."""
    p, v = layout.pp, layout.vpp
    share = (slots(shape, layout) or ceil(shape.layers / p)) / shape.layers
    in_flight = min(p, layout.microbatches) * (1 + (p - 1) / (p * v) if v > 1 else 1)
    kept = block_activations(shape, layout, stack, layout.recompute) * share * in_flight
    working = 0.0
    if layout.recompute == "full":
        working = 2 * block_activations(shape, layout, stack, "none") / shape.layers  # activations and their gradients
    return kept + working


def loss_bytes(shape: ModelShape, layout: Layout, stack: Stack) -> float:
    """Bytes of logits and their gradient on the last stage: 16-bit logits and fp32 copies."""
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    return (6.0 if stack.fused_loss else 10.0) * tokens * shape.vocab / layout.tp


def memory_of(shape: ModelShape, layout: Layout, stack: Stack) -> Memory:
    """Memory of the fullest device of a layout."""
    weights, gradients, optimiser = state_bytes(shape, layout, stack)
    activations = activation_bytes(shape, layout, stack)
    loss = loss_bytes(shape, layout, stack)
    if layout.pp > 1:  # the last stage holds one micro-batch: its logits stand where the first has activations
        activations = max(activations, activations / min(layout.pp, layout.microbatches) + loss)
    else:
        activations += loss
    buffers = CONTEXT_BYTES + stack.bucket_bytes + FRAGMENTS * (weights + gradients + optimiser + activations)
    if layout.zero == 3:
        buffers += 2 * 2.0 * sum(weights_of(shape, layout)) / shape.layers  # two gathered blocks
    return Memory(weights, gradients, optimiser, activations, buffers)
