"""A case: one published or measured run, to be predicted and compared."""

from __future__ import annotations

import re
from dataclasses import dataclass

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import Cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.stack import Stack

Row = dict[str, str]
LARGEST = 1e8  # of anything that is counted: heads, widths, devices, tokens of a sequence


@dataclass(frozen=True)
class Case:
    """One row: what ran, on what, and what was measured.

    Parameters
    ----------
    name : str
        The row's id or number.
    shape, layout, cluster, stack
        What to predict.
    published : dict of str to float
        Measured figures by metric: seconds, tokens_per_s, tflops, mfu, hfu (per cent), memory_gib, days; may be empty.
    tokens : float
        Tokens of the whole run, for days.
    counted : float
        FLOPs of a token by which the row counts its TFLOP/s; 0: the planner's own.
    sequences : float
        Of a step, where the layout's had to be rounded; 0: the layout's.
    """

    name: str
    shape: ModelShape
    layout: Layout
    cluster: Cluster
    stack: Stack
    published: dict[str, float]
    tokens: float = 0.0
    counted: float = 0.0
    sequences: float = 0.0


@dataclass(frozen=True)
class Refused:
    """A row that cannot be predicted, and why."""

    name: str
    reason: str


def number(row: Row, column: str, default: float | None = None) -> float:
    """The first number of a cell: '729 (578)' is 729, '661[^note]' is 661; a missing one is the default."""
    found = re.match(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", (row.get(column) or "").replace(",", ""))
    if found:
        return float(found.group(1))
    if default is None:
        raise SettingError(f"column {column!r} is {row.get(column, '')!r}; expected a number")
    return default


def positive(value: float, column: str) -> int:
    """A cell's number as a whole one; an error below 1 or where nothing is so large."""
    if not 1 <= value <= LARGEST:
        raise SettingError(f"column {column!r} is {value:g}; expected 1 or more, and {LARGEST:g} at most")
    return int(value)


def told_size(row: Row, column: str) -> int:
    """A cell's number as a whole one; 0 where the cell is empty or 0."""
    value = number(row, column, 0.0)
    return positive(value, column) if value else 0


def figures(row: Row, columns: dict[str, str]) -> dict[str, float]:
    """What the row measured: metrics by the planner's names, missing and zero cells left out."""
    found = {metric: number(row, column, 0.0) for column, metric in columns.items()}
    return {metric: value for metric, value in found.items() if value > 0}
