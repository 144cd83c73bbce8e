"""Predict every row of a CSV of published runs and compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from everlearn.errors import SettingError
from everlearn.scaling.plan.plan import Plan, estimate
from everlearn.scaling.plan.published import Case, Refused, read_cases

UNITS = {
    "seconds": "s",
    "tokens_per_s": "tokens/s/device",
    "tflops": "TFLOP/s/device",
    "mfu": "%",
    "hfu": "%",
    "memory_gib": "GiB",
    "days": "days",
}


@dataclass(frozen=True)
class Comparison:
    """One figure of one row; ``error`` is predicted / published − 1."""

    row: str
    metric: str
    predicted: float
    published: float
    model: str
    layout: str

    @property
    def error(self) -> float:
        """Relative error, signed."""
        return self.predicted / self.published - 1


@dataclass(frozen=True)
class Validation:
    """All comparisons of a file, rows that measured nothing to compare with, and rows that could not be predicted."""

    file: str
    format: str
    comparisons: list[Comparison]
    refused: list[Refused]
    unmeasured: list[dict[str, Any]] = field(default_factory=list)

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean absolute error, mean error and number of rows by metric."""
        found = {}
        for metric in UNITS:
            errors = [c.error for c in self.comparisons if c.metric == metric]
            if errors:
                found[metric] = {"mean_abs_error": fmean(map(abs, errors)), "bias": fmean(errors), "rows": len(errors)}
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        rows = [
            {
                "row": c.row,
                "model": c.model,
                "layout": c.layout,
                "metric": c.metric,
                "unit": UNITS[c.metric],
                "predicted": c.predicted,
                "published": c.published,
                "error": c.error,
            }
            for c in self.comparisons
        ]
        refused = [{"row": r.name, "reason": r.reason} for r in self.refused]
        return {"file": self.file, "format": self.format, "means": self.means, "rows": rows,
                "unmeasured": self.unmeasured, "refused": refused}  # fmt: skip


def validate(path: str | Path) -> Validation:
    """Predict every row of a CSV in one of the known formats.

    Raises
    ------
    SettingError
        If the file cannot be read, is empty, or is of no known format.
    """
    kind, cases = read_cases(path)
    comparisons: list[Comparison] = []
    refused, unmeasured = [], []
    for case in cases:
        if isinstance(case, Refused):
            refused.append(case)
            continue
        try:
            found = compare(case)
            if wrong := next((c for c in found if not 0 < c.published < inf or not isfinite(c.error)), None):
                raise SettingError(f"{wrong.metric} is {wrong.published:g}, predicted {wrong.predicted:g}")
            comparisons += found
            if not case.published:
                unmeasured.append(_alone(case))
        except (ArithmeticError, SettingError) as error:
            refused.append(Refused(case.name, f"its sizes make no run that can be predicted ({error})"))
    return Validation(Path(path).name, kind, comparisons, refused, unmeasured)


def _alone(case: Case) -> dict[str, Any]:
    """What is predicted of a row that measured nothing."""
    plan = estimate(case.shape, case.layout, case.cluster, case.stack)
    figures = {metric: predicted(case, plan, metric) for metric in ("seconds", "tokens_per_s", "mfu", "memory_gib")}
    return {"row": case.name, "model": case.shape.name, "layout": case.layout.words, "predicted": figures}


def compare(case: Case) -> list[Comparison]:
    """Predicted beside published, figure by figure."""
    plan = estimate(case.shape, case.layout, case.cluster, case.stack)
    return [
        Comparison(case.name, metric, predicted(case, plan, metric), published, case.shape.name, case.layout.words)
        for metric, published in case.published.items()
    ]


def predicted(case: Case, plan: Plan, metric: str) -> float:
    """The plan's figure in the metric's unit."""
    if metric == "seconds":
        return (case.sequences or case.layout.global_batch) * case.shape.seq_len / plan.tokens_per_second
    if metric == "tflops":
        return 1e-12 * (case.counted or case.shape.flops_per_token) * plan.tokens_per_second_per_device
    if metric == "days":
        return case.tokens / plan.tokens_per_second / 86400
    return {
        "tokens_per_s": plan.tokens_per_second_per_device,
        "mfu": 100 * plan.mfu,
        "hfu": 100 * plan.hfu,
        "memory_gib": plan.memory.total / 2**30,
    }[metric]
