"""A plan as JSON, and as the configuration that ``everlearn pretrain`` takes."""

from __future__ import annotations

from dataclasses import asdict, fields
from math import ceil
from typing import Any

import tomli_w

from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.cost import Cost
from everlearn.scaling.plan.failures import failures_of
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.plan import Plan


def as_json(plan: Plan, cost: Cost | None = None) -> dict[str, Any]:
    """Everything about a plan, in plain numbers: seconds, GiB, shares 0..1."""
    found: dict[str, Any] = {
        "layout": asdict(plan.layout) | {"devices": plan.layout.devices, "words": plan.layout.words},
        "fits": plan.fits,
        "memory_gib": {name: size / 2**30 for name, size in asdict(plan.memory).items()}
        | {"total": plan.memory.total / 2**30, "of": plan.cluster.device.memory_gib},
        "step_seconds": plan.step_seconds,
        "parts": plan.parts,
        "tokens_per_second_per_device": plan.tokens_per_second_per_device,
        "model_tflops": plan.model_tflops,
        "hardware_tflops": plan.hardware_tflops,
        "mfu": plan.mfu,
        "hfu": plan.hfu,
        "failures": asdict(failures_of(plan)),
    }
    return found | ({"cost": asdict(cost)} if cost else {})


def as_pretrain(plan: Plan, tokens: float, preset: str | None = None) -> str:
    """The text of a configuration for ``everlearn pretrain``, with the data left to fill in.

    Parameters
    ----------
    tokens : float
        Of the run; decides the number of steps.
    preset : str, optional
        Name of the model's preset or file; by default its fields are written out.
    """
    layout, cut = plan.layout, cut_of(plan.layout)
    every = max(1, round(failures_of(plan).interval / plan.step_seconds))
    train = {
        "steps": max(1, ceil(tokens / plan.tokens_per_step)),
        "global_batch": layout.global_batch,
        "seq_len": plan.shape.seq_len,
        "checkpoint_every": every,
        "peak_tflops": float(plan.cluster.device.tflops_bf16),
    }
    model = {"preset": preset} if preset else model_table(plan.shape)
    table = {"model": model, "data": {"train": ["train.tokens"]}, "train": train, "layout": cut}
    head = f"# {plan.shape.name} on {plan.cluster.devices} × {plan.cluster.device.name}: {layout.words}\n"
    head += f"# predicted: {plan.step_seconds:.3g} s a step, {plan.mfu:.1%} MFU, {plan.memory.total / 2**30:.0f} GiB\n"
    if layout.precision != "bf16":
        head += f"# planned in {layout.precision}; `everlearn pretrain` trains in bf16, which is slower\n"
    return head + "# data.train is a placeholder: name your token or text files\n" + tomli_w.dumps(table)


def cut_of(layout: Layout) -> dict[str, Any]:
    """A layout as the [layout] table of ``everlearn pretrain``."""
    own = ("dp", "tp", "pp", "vpp", "cp", "ep", "micro_batch", "zero", "sequence_parallel", "recompute")
    cut = {name: getattr(layout, name) for name in own} | {"precision": "bf16"}
    if layout.pp > 1:
        cut["schedule"] = "interleaved" if layout.vpp > 1 else "1f1b"
    return cut


def model_table(shape: ModelShape) -> dict[str, Any]:
    """The fields of a shape that differ from their defaults."""
    told = {field.name: getattr(shape, field.name) for field in fields(shape) if field.name != "name"}
    plain = asdict(
        ModelShape(shape.name, shape.layers, shape.hidden, shape.heads, shape.ffn or 1, shape.vocab, seq_len=1)
    )
    needed = {"layers", "hidden", "heads", "ffn", "vocab", "seq_len"}
    return {name: value for name, value in told.items() if name in needed or value != plain[name]}
