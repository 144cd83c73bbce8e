"""Megatron-Bridge's performance summaries: Hopper and Blackwell, dense and mixture, bf16 to nvfp4."""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import Cluster, load_cluster
from everlearn.scaling.plan.config import ModelShape, load_shape, preset_names
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.memory import memory_of
from everlearn.scaling.plan.published.cases import Case, Row, figures, number, positive
from everlearn.scaling.plan.stack import GRAPHS, MODERN, PART_GRAPHS, Stack

COLUMNS = {"model", "System", "#-GPUs", "GBS", "TP", "PP", "Tokens / sec / GPU"}
MODELS = {
    "deepseekv3": "deepseek-v3",
    "gptoss120b": "gpt-oss-120b",
    "qwen330ba3b": "qwen3-30b-a3b",
    "qwen3235ba22b": "qwen3-235b-a22b",
    "nemotron3nano": "nemotron3-nano",
    "nemotron3super": "nemotron3-super",
    "llama31405b": "llama3-405b",
    "llama3405b": "llama3-405b",
    "llama370b": "llama3-70b",
    "llama38b": "llama3-8b",
    "kimik2": "kimi-k2",
}
PRECISION = {"bf16": "bf16", "fp8": "fp8", "fp8cs": "fp8", "mxfp8": "mxfp8", "fp8mx": "mxfp8", "nvfp4": "nvfp4"}


def read(row: Row, name: str) -> Case:
    """Rows of Megatron-Bridge's performance summaries.

    Defaults: of two figures, ``729 (578)``, the first; without precision fp8 with one scale for a tensor, as the
    summary of 25.09 says; "n/a" is 1; ZeRO-1, and ZeRO-3 where FSDP is on. The container's release decides the stack.
    A model that is no preset has the shape of the one nearest by name, with blocks by the row's FLOPs of a token.
    """
    key = re.sub(r"\(.*?\)|[^a-z0-9]", "", row["model"].lower())
    preset = MODELS.get(key) or next((name for name in preset_names() if name.replace("-", "") == key), None)
    shape = load_shape(preset) if preset else _alike(row, key)
    shape = replace(shape, seq_len=positive(number(row, "Sequence Length", shape.seq_len), "Sequence Length"))
    if "w/o mtp" in row["model"].lower():
        shape = replace(shape, mtp=0)
    system = row["System"].lower().removeprefix("dgx-")
    precision = PRECISION.get(re.sub(r"\(.*?\)|[^a-z0-9]", "", row.get("Precision", "").lower()), "fp8")
    devices = positive(number(row, "#-GPUs"), "#-GPUs")
    tp, pp, cp, ep = (positive(number(row, dim, 1), dim) for dim in ("TP", "PP", "CP", "EP"))
    fsdp = number(row, "FSDP", 0) > 1
    layout = Layout(
        dp=max(1, devices // (tp * pp * cp)),
        tp=tp,
        pp=pp,
        cp=cp,
        ep=ep,
        vpp=positive(number(row, "VP", 1), "VP") if pp > 1 else 1,
        micro_batch=positive(number(row, "MBS", 1), "MBS"),
        global_batch=positive(number(row, "GBS"), "GBS"),
        zero=3 if fsdp else 1,
        recompute="none",
        precision=precision,
    )
    cluster = load_cluster(f"{system}:{devices}")
    stack = stack_of(row, key, system)
    layout = least_recomputation(shape, layout, cluster, stack)
    columns = {"Tokens / sec / GPU": "tokens_per_s", "Model TFLOP / sec / GPU": "tflops"}
    counted = (2 if stack.frozen else 3) * shape.forward_flops(causal=not shape.mamba_layers)
    return Case(name, shape, layout, cluster, stack, figures(row, columns), counted=counted)


def stack_of(row: Row, model: str, system: str) -> Stack:
    """The stack of a container.

    On Grace-Blackwell parts of a block are graphs, and from 26.06 on whole blocks, with fused permutations; not so for
    hybrids, nor for Kimi K2, whose recipe stayed. Until then GPT OSS's clamped activation and its experts' biases were
    kernels of their own.
    """
    new = number(row, "container", 25.09) >= 26.06
    stack = MODERN
    if system.startswith("gb") and not model.startswith("nemotron"):
        stack = GRAPHS if new and model != "kimik2" else PART_GRAPHS
    stack = replace(stack, frozen="lora" in row.get("section", "").lower())
    return replace(stack, activation_passes=12.5) if model == "gptoss120b" and not new else stack


def _alike(row: Row, key: str) -> ModelShape:
    """A model that is no preset: the one of the nearest name, with as many blocks as the row's FLOPs of a token ask."""
    names = {name.replace("-", ""): name for name in preset_names()}
    near = get_close_matches(key, names, 1, 0.5)
    told = number(row, "Model TFLOP / sec / GPU", 0) / max(1e-9, number(row, "Tokens / sec / GPU", 0))
    if not near or not told:
        raise SettingError(
            f"model {row['model']!r} is no preset's, nor is one alike; give its figures and a known name"
        )
    shape = load_shape(names[near[0]])
    times = 1e12 * told / (3 * shape.forward_flops(causal=not shape.mamba_layers))
    if not 1 / 4 < times < 4:
        raise SettingError(f"model {row['model']!r}: {names[near[0]]} is alike by name, but not by its FLOPs")
    parts = ("layers", "attention_layers", "ffn_layers", "mamba_layers", "local_layers")
    return replace(shape, name=row["model"], **{part: round(times * getattr(shape, part)) for part in parts})


def least_recomputation(shape: ModelShape, layout: Layout, cluster: Cluster, stack: Stack) -> Layout:
    """The layout with selective recomputation if it does not fit without: the summaries do not tell it."""
    if memory_of(shape, layout, stack).total <= cluster.device.memory_gib * 2**30:
        return layout
    return replace(layout, recompute="selective")
