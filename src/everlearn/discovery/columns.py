"""Candidates described by columns: process settings, ingredients and their fractions, categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everlearn.discovery import numbers
from everlearn.discovery.features import Array, Block, Features, Scale

_NUMERIC = 0.8  # a column is one of numbers where at least this share of what is written in it are
_LEVELS = 60  # a category with more levels than this, and few rows each, says nothing of other rows


@dataclass(frozen=True)
class Column:
    """How a column is read: as numbers in a unit, or as one of some levels; with neither it is left out."""

    name: str
    unit: str = ""
    levels: tuple[str, ...] = ()
    numeric: bool = True

    def number(self, cells: dict[str, str]) -> float:
        """The cell's number, NaN where it is missing; a `ValueError` names the column and what is wrong."""
        text = cells.get(self.name, "")
        if numbers.missing(text):
            return float("nan")
        try:
            return numbers.number(text, self.unit)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


def read_columns(names: Sequence[str], rows: Sequence[dict[str, str]]) -> list[Column]:
    """How each column is best read.

    Examples
    --------
    >>> rows = [{"T": "300", "salt": "LiPF6"}, {"T": "310", "salt": "LiBF4"}, {"T": "hot"}, {"T": "1"}, {"T": "2"}]
    >>> [(column.name, column.numeric, column.levels) for column in read_columns(["T", "salt"], rows)]
    [('T', True, ()), ('salt', False, ('LiBF4', 'LiPF6'))]
    """
    return [_column(name, [row.get(name, "") for row in rows]) for name in names]


class ColumnFeaturiser:
    """Turn rows into features; missing numbers count as the mean of the pool.

    Parameters
    ----------
    columns : sequence of Column
        Those that describe a candidate.
    pool : sequence of dict
        Cells by column.
    """

    def __init__(self, columns: Sequence[Column], pool: Sequence[dict[str, str]]) -> None:
        self.columns = [column for column in columns if column.numeric or column.levels]
        self._scale = Scale.of(self._numbers(pool), by="range")
        self.pool = self(pool)

    def __call__(self, rows: Sequence[dict[str, str]]) -> Features:
        """Features of other rows."""
        blocks = [Block("matern", self._scale.apply(self._numbers(rows)), lengths=True)]
        chosen = self._choices(rows)
        if chosen.shape[1]:
            blocks.append(Block("matern", 2 * chosen, lengths=True))
        return Features(
            tuple(block for block in blocks if block.values.shape[1]) or (Block("matern", np.zeros((len(rows), 1))),)
        )

    def _numbers(self, rows: Sequence[dict[str, str]]) -> Array:
        numeric = [column for column in self.columns if column.numeric]
        return np.array([[column.number(row) for column in numeric] for row in rows]).reshape(len(rows), len(numeric))

    def _choices(self, rows: Sequence[dict[str, str]]) -> Array:
        pairs = [(column.name, level) for column in self.columns if not column.numeric for level in column.levels]
        table = [[float(row.get(name, "").strip() == level) for name, level in pairs] for row in rows]
        return np.array(table).reshape(len(rows), len(pairs))


def _column(name: str, texts: Sequence[str]) -> Column:
    written = [text.strip() for text in texts if not numbers.missing(text)]
    unit = numbers.common_unit(written)
    parsed = sum(_parses(text) for text in written)
    if written and parsed >= _NUMERIC * len(written):
        return Column(name, unit)
    levels = Counter(written)
    if len(levels) > _LEVELS and len(levels) > len(written) / 5:
        return Column(name, numeric=False)
    return Column(name, levels=tuple(sorted(levels)), numeric=False)


def _parses(text: str) -> bool:
    try:
        numbers.split(text)
    except ValueError:
        return False
    return True
