"""A plan's collectives beside those of the real code, traced for one rank of the whole cluster."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from everlearn.models.language import LanguageConfig
from everlearn.scaling.dry_run import Traced, dry_run
from everlearn.scaling.plan.collectives import step_collectives
from everlearn.scaling.plan.export import cut_of
from everlearn.scaling.plan.plan import Plan
from everlearn.scaling.plan.stack import PRETRAIN
from everlearn.scaling.settings import Layout, from_shape

DATA = {"fsdp", "outer", "replicate"}  # dimensions of the mesh that the planner calls dp
SMALL = 1e-3  # share of all bytes below which what was not planned is not shown


@dataclass(frozen=True)
class Counted:
    """Collectives of a kind along a dimension: planned and traced calls and bytes of one rank's step."""

    kind: str
    dimension: str
    planned_calls: int
    planned_bytes: float
    calls: int
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """What a trace of a plan's layout found.

    Attributes
    ----------
    rows : list of Counted
        By kind and dimension, from many bytes to few.
    micro_batches : int
        Of the traced step, as many as fill the pipeline; the plan is counted for as many.
    traced : Traced
    peak_gib : float
        Most memory that this process has had.
    """

    rows: list[Counted]
    micro_batches: int
    traced: Traced
    peak_gib: float

    @property
    def ratio(self) -> float:
        """All planned bytes over all traced ones."""
        return sum(row.planned_bytes for row in self.rows) / max(1, sum(row.bytes for row in self.rows))


def trace_plan(plan: Plan) -> Comparison:
    """Trace one step of a plan's layout with the code that `everlearn pretrain` runs, as its first rank.

    The plan is counted for that code: gradients are reduced in float32, inputs that sequence parallelism gathered are
    kept for the backward pass, and tensor parallelism cuts every expert.

    Raises
    ------
    SettingError
        If the model has parts that the code has not, or the layout is not one of its own.
    """
    config = LanguageConfig(**from_shape(plan.shape))
    layout = Layout.model_validate(cut_of(plan.layout))
    micro = plan.layout.pp
    batch = plan.layout.dp * plan.layout.micro_batch * micro
    traced = dry_run(config, layout, plan.layout.devices, seq_len=plan.shape.seq_len, global_batch=batch)
    planned: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for c in step_collectives(plan.shape, replace(plan.layout, global_batch=batch), PRETRAIN):
        entry = planned[c.kind, c.group]
        entry[0] += c.count
        entry[1] += c.count * c.bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Comparison(list(_rows(planned, traced)), micro, traced, peak)


def _rows(planned: dict[tuple[str, str], list[float]], traced: Traced) -> Iterable[Counted]:
    counted: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for (kind, dimension), (calls, size) in traced.along.items():
        if kind != "receive":  # the other end of a send
            entry = counted[kind, "dp" if dimension in DATA else dimension]
            entry[0] += calls
            entry[1] += size
    total = sum(size for _, size in counted.values())
    keys = sorted(set(planned) | set(counted), key=lambda key: -max(planned[key][1], counted[key][1]))
    for key in keys:
        if (key in planned and planned[key][0]) or counted[key][1] > SMALL * total:
            yield Counted(*key, round(planned[key][0]), planned[key][1], *counted[key])
