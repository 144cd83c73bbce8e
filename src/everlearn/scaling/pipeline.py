"""Stages of a pipeline and its schedules, on ``torch.distributed.pipelining``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, schedules

from everlearn.models.language import Language
from everlearn.scaling.mesh import Mesh
from everlearn.scaling.settings import Layout

SCHEDULES = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble,
}


def stages_of(rank: int, layout: Layout) -> list[int]:
    """Stages that a place of the pipeline holds: every pp-th, or, for ZBV, one down the V and one up.

    Examples
    --------
    >>> stages_of(1, Layout(pp=4, vpp=2, schedule="interleaved")), stages_of(1, Layout(pp=4, schedule="zbv"))
    ([1, 5], [1, 6])
    """
    if layout.pp > 1 and layout.schedule == "zbv":
        return [rank, 2 * layout.pp - 1 - rank]
    return [rank + layout.pp * i for i in range(layout.vpp)]


def split(model: Language, index: int, stages: int) -> Language:
    """Keep the blocks of one stage, and embedding or head where they belong; in place."""
    layers = list(model.blocks)
    mine = blocks_of(index, len(layers), stages)
    for i, name in enumerate(layers):
        if i not in mine:
            del model.blocks[name]
    if index > 0:
        model.embed = model.place = None
    if index < stages - 1:
        model.norm = model.head = None
    return model


def blocks_of(index: int, layers: int, stages: int) -> range:
    """The blocks of a stage. Where it makes stages even the head counts as a block, or head and embedding do.

    Examples
    --------
    >>> [list(blocks_of(i, 6, 4)) for i in range(4)], [len(blocks_of(i, 7, 4)) for i in range(4)]
    ([[0], [1, 2], [3, 4], [5]], [2, 2, 2, 1])
    """
    extra = next((extra for extra in (0, 1, 2) if (layers + extra) % stages == 0), 0)
    first, places = extra // 2, layers + extra
    start, end = (i * places // stages - first for i in (index, index + 1))
    return range(max(0, start), min(layers, end))


def make_schedule(
    stages: list[Language],
    mesh: Mesh,
    micro_batches: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    tokens: int = 0,
) -> Any:
    """The schedule of a step of so many micro-batches. The loss is scaled already, so gradients stay as they are.

    With ``tokens``, those of a sequence that this process holds, stages are told what they receive and send; otherwise
    they tell each other in the first step.
    """
    layout = mesh.layout
    indices = stages_of(mesh.rank("pp"), layout)
    total = layout.pp * len(indices)
    group = mesh.group("pp")
    made = [
        PipelineStage(stage, i, total, device, group=group, **(_known(stage, layout, tokens) if tokens else {}))
        for stage, i in zip(stages, indices)
    ]
    kind = SCHEDULES[layout.schedule]
    single = issubclass(kind, schedules.PipelineScheduleSingle)
    return kind(made[0] if single else made, micro_batches, loss_fn=loss, scale_grads=False)


def _known(stage: Language, layout: Layout, tokens: int) -> dict[str, Any]:
    """What a stage receives and sends: tokens, activations in the precision of the blocks, logits."""
    held = tokens // (layout.tp if layout.sequence_parallel else 1)
    bf16 = layout.precision == "bf16" and layout.dp * layout.cp > 1
    kind = torch.bfloat16 if bf16 else torch.float32
    gradient = torch.zeros(layout.micro_batch, held, stage.config.hidden, dtype=kind, device="meta")
    activations = gradient.clone().requires_grad_()
    whole = (layout.micro_batch, tokens)
    first, last = stage.embed is not None, stage.head is not None
    return {
        "input_args": torch.zeros(whole, dtype=torch.int64, device="meta") if first else activations,
        "output_args": torch.zeros(*whole, stage.config.vocab, device="meta").requires_grad_() if last else activations,
        "input_grads": (None if first else gradient,),
        "output_grads": (None if last else gradient,),
    }
