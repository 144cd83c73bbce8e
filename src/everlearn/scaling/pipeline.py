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
    mine = range(index * len(layers) // stages, (index + 1) * len(layers) // stages)
    for i, name in enumerate(layers):
        if i not in mine:
            del model.blocks[name]
    if index > 0:
        model.embed = model.place = None
    if index < stages - 1:
        model.norm = model.head = None
    return model


def make_schedule(
    stages: list[Language],
    mesh: Mesh,
    micro_batches: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> Any:
    """The schedule of a step of so many micro-batches. The loss is scaled already, so gradients stay as they are."""
    layout = mesh.layout
    indices = stages_of(mesh.rank("pp"), layout)
    total = layout.pp * len(indices)
    made = [PipelineStage(stage, i, total, device, group=mesh.group("pp")) for stage, i in zip(stages, indices)]
    kind = SCHEDULES[layout.schedule]
    single = issubclass(kind, schedules.PipelineScheduleSingle)
    return kind(made[0] if single else made, micro_batches, loss_fn=loss, scale_grads=False)
