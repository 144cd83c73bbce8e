"""ADWIN: has the mean of a sequence risen? A window that grows while nothing changes and is cut where something did.

Bifet & Gavaldà 2007, *Learning from Time-Changing Data with Adaptive Windowing* (SIAM International Conference on Data
Mining 2007, pages 443–448).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH = 5  # buckets of one size before two of them are merged
_LEAST = 30  # values on either side of a cut


@dataclass(frozen=True)
class Rise:
    """The mean was ``before`` and has been ``now`` over the last ``values`` values."""

    before: float
    now: float
    values: int


class Adwin:
    r"""Values in 0..1 come in batches; a rise of their mean is reported, a fall is taken in silently.

    A window of n values is kept in O(log n) buckets. With n₀ values of mean μ₀ before a cut and n₁ of mean μ₁ behind
    it, m = 1/(1/n₀ + 1/n₁), σ² the variance of the window, the cut shows a change if

    .. math:: |μ_0 − μ_1| ≥ \sqrt{\tfrac{2}{m} σ^2 \ln\tfrac{2}{δ'}} + \tfrac{2}{3m} \ln\tfrac{2}{δ'}, \qquad δ' = δ/n.

    What lies before the cut is then dropped.

    Parameters
    ----------
    delta : float
        Bounds the chance that one look at a stationary window finds a change.
    state : list, optional
        What `state` gave: to go on from there.

    Examples
    --------
    >>> window = Adwin()
    >>> [window.add([0.1, 0.2] * 5) for _ in range(40)].count(None)
    40
    >>> rise = next(filter(None, (window.add([0.7, 0.9] * 5) for _ in range(40))))
    >>> round(rise.before, 2), round(rise.now, 2)
    (0.15, 0.43)
    """

    def __init__(self, delta: float = 0.002, state: Sequence[Sequence[Sequence[float]]] | None = None) -> None:
        self.delta = delta
        # rows of buckets [values, sum, sum of squares], the newest row first, the newest bucket of a row first
        self.rows: list[list[list[float]]] = [[list(bucket) for bucket in row] for row in state or []]

    def add(self, values: Sequence[float]) -> Rise | None:
        """Take in a batch; tell of a rise, if it shows now."""
        if not values:
            return None
        self._insert([float(len(values)), math.fsum(values), math.fsum(v * v for v in values)])
        rise = None
        while (cut := self._cut()) is not None:
            buckets, found = cut
            self._drop(buckets)
            if found.now > found.before and rise is None:
                rise = found
        return rise

    def clear(self) -> None:
        """Begin anew."""
        self.rows = []

    def state(self) -> list[Any]:
        """Numbers to go on from, which JSON keeps to the bit."""
        return [[list(bucket) for bucket in row] for row in self.rows]

    def _insert(self, bucket: list[float]) -> None:
        level = 0
        while True:
            if level == len(self.rows):
                self.rows.append([])
            row = self.rows[level]
            row.insert(0, bucket)
            if len(row) <= _WIDTH:
                return
            older, old = row.pop(), row.pop()
            bucket = [a + b for a, b in zip(older, old)]
            level += 1

    def _cut(self) -> tuple[int, Rise] | None:
        """The oldest cut that shows a change: how many of the oldest buckets lie before it, and the means."""
        buckets = [bucket for row in reversed(self.rows) for bucket in reversed(row)]  # oldest first
        n, total, squares = (math.fsum(column) for column in zip(*buckets)) if buckets else (0.0, 0.0, 0.0)
        if n < 2 * _LEAST:
            return None
        variance, log = max(0.0, squares / n - (total / n) ** 2), math.log(2 * n / self.delta)
        n0 = sum0 = 0.0
        for count, bucket in enumerate(buckets[:-1], 1):
            n0, sum0 = n0 + bucket[0], sum0 + bucket[1]
            n1 = n - n0
            if n0 < _LEAST or n1 < _LEAST:
                continue
            before, now, m = sum0 / n0, (total - sum0) / n1, 1 / (1 / n0 + 1 / n1)
            if abs(before - now) >= math.sqrt(2 / m * variance * log) + 2 / (3 * m) * log:
                return count, Rise(before, now, int(n1))
        return None

    def _drop(self, count: int) -> None:
        for row in reversed(self.rows):
            while row and count:
                row.pop()
                count -= 1
        while self.rows and not self.rows[-1]:
            self.rows.pop()
