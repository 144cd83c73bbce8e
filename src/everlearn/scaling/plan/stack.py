"""Software generations: what the training stack fuses, overlaps and pays on the host."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stack:
    """What a training stack does, apart from the mathematics.

    Parameters
    ----------
    name : str
        What a person calls it.
    fused_attention : bool
        FlashAttention: scores never reach memory, and the causal half is skipped.
    dropout : bool
        GPT's dropout, with its masks.
    fused_loss : bool
        Cross-entropy in one kernel.
    host_forward_us : float
        Host time to launch one block forward; backward takes twice as long. A step cannot be faster than its launches.
    expert_host_us, mamba_host_us : float
        More of it for a block of experts, and of a Mamba-2 mixer.
    overlap_gradients, overlap_tensor, overlap_pipeline, overlap_experts : float
        Share of each communication that hides behind computation, 0..1.
    rails : bool
        Collectives use all network cards of a node; otherwise one.
    gradient_bytes : int
        Bytes of a gradient as it is kept and reduced.
    attention_share : float
        What fused attention reaches of the device's best kernel, 0..1.
    frozen : bool
        Weights stay as they are and only small adapters learn (LoRA): no gradients of weights, no optimiser.
    expert_start_us : float
        Time of a device for each expert that it holds, forward: products that start one by one, and their last tiles.
    expert_row_bytes : float
        Bytes read and written for each routed row and each unit of width, forward: permutations and casts.
    activation_passes : float
        Traffic of activation functions against that of one fused kernel.
    norm_passes : float
        Traffic of norms, residuals and rotations against that of fused kernels.
    asynchronous : bool
        Launches run ahead of the device. Otherwise (CUDA_LAUNCH_BLOCKING) host and device take turns.
    bucket_bytes : float
        Buffers in which gradients are reduced and weights gathered.
    regathers : bool
        Inputs that sequence parallelism gathers are gathered again in the backward pass rather than kept.
    splits_experts : bool
        Tensor parallelism cuts every expert and sends each process's tokens whole, rather than the other way round;
        counted in collectives only.
    """

    name: str
    fused_attention: bool = True
    dropout: bool = False
    fused_loss: bool = True
    host_forward_us: float = 640.0
    expert_host_us: float = 2450.0
    overlap_gradients: float = 0.9
    overlap_tensor: float = 0.55
    overlap_pipeline: float = 0.9
    overlap_experts: float = 0.0
    rails: bool = True
    gradient_bytes: int = 2
    mamba_host_us: float = 800.0
    expert_row_bytes: float = 13.0
    expert_start_us: float = 37.0
    activation_passes: float = 1.0
    norm_passes: float = 1.0
    asynchronous: bool = True
    bucket_bytes: float = 0.0
    regathers: bool = True
    attention_share: float = 1.0
    frozen: bool = False
    splits_experts: bool = False


MODERN = Stack("modern")
# Before FlashAttention-3 and cuDNN 9 Hopper's attention reached a third of its peak (Shah et al. 2024).
MODERN_2023 = Stack("modern-2023", attention_share=0.7)
PART_GRAPHS = Stack("part-graphs", expert_host_us=740.0, expert_start_us=19.0)
# From 26.06 on all experts' products are one kernel.
GRAPHS = Stack(
    "graphs",
    host_forward_us=150.0,
    expert_host_us=200.0,
    expert_start_us=0.0,
    expert_row_bytes=6.6,
    overlap_experts=0.85,
)
# Plain PyTorch modules: a norm in fp32 is six kernels of 36 bytes an element against a fused one's 4, a rotation 30
# against 4, beside residuals that stay; SwiGLU is two kernels of 10 bytes against one of 6; the loss is not fused.
EAGER = Stack("eager", norm_passes=4.0, activation_passes=1.7, fused_loss=False, attention_share=0.6)
# The same of GPT: LayerNorm and GELU have kernels of their own in PyTorch, residuals and casts stay.
EAGER_GPT = replace(EAGER, name="eager-gpt", norm_passes=2.0, activation_passes=1.0)
# What `everlearn pretrain` runs.
PRETRAIN = replace(EAGER, name="pretrain", gradient_bytes=4, regathers=False, overlap_tensor=0.0, splits_experts=True)
MEGATRON_2021 = Stack(
    "megatron-2021",
    fused_attention=False,
    dropout=True,
    fused_loss=False,
    host_forward_us=855.0,
    overlap_gradients=0.0,
    overlap_tensor=0.0,
    overlap_pipeline=0.0,
    gradient_bytes=2,
)
# Megatron from 2022 on sums gradients of activations while it computes those of weights: two of four or six sums hide.
MEGATRON_2022 = replace(MEGATRON_2021, name="megatron-2022", overlap_tensor=0.42)
STACKS = {
    stack.name: stack
    for stack in (MODERN, MODERN_2023, EAGER, EAGER_GPT, PRETRAIN, PART_GRAPHS, GRAPHS, MEGATRON_2021, MEGATRON_2022)
}
