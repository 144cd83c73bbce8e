"""What the pool's columns say of limits and of costs, and of which candidates they say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everlearn.discovery.config import CampaignConfig
from everlearn.discovery.features import Array
from everlearn.discovery.numbers import common_unit, missing, number
from everlearn.discovery.pool import Candidate, Pool


class Limits:
    """Limits on columns of the pool, and the column of costs, read once.

    Parameters
    ----------
    pool : Pool
    config : CampaignConfig

    Attributes
    ----------
    kept : ndarray of bool
        ``[N]``, whether a candidate is within all limits; one whose column holds no number is not.
    priced : ndarray of bool
        ``[N]``, whether the column of costs holds one above 0; all False where there is no such column.
    log_cost : ndarray
        ``[N]``; a candidate without a positive cost counts as the median of the others.
    notes : list of str
        Which columns hold no number for some candidates, and what was made of that.

    Examples
    --------
    >>> cells = [{"T": "20", "price": "2"}, {"T": "80", "price": "8"}, {"T": "warm", "price": ""}]
    >>> pool = Pool("columns", None, None, candidates=[Candidate(str(i), "", c) for i, c in enumerate(cells)])
    >>> limit = {"column": "T", "sign": "<=", "bound": 60}
    >>> limits = Limits(pool, CampaignConfig.of({"targets": [{"name": "y"}], "limits": [limit], "cost": "price"}))
    >>> limits.kept.tolist(), np.exp(limits.log_cost).round().tolist()
    ([True, False, False], [2.0, 8.0, 5.0])
    >>> print(*limits.notes, sep="\\n")
    T holds no number for 1 of 3 candidates (2: 'warm' is not a number): they are not proposed
    price holds no cost above 0 for 1 of 3 candidates (2: it is empty): they count as the median, 5
    """

    def __init__(self, pool: Pool, config: CampaignConfig) -> None:
        n = len(pool.candidates)
        self.kept: NDArray[np.bool_] = np.ones(n, dtype=bool)
        self.priced: NDArray[np.bool_] = np.zeros(n, dtype=bool)
        self.log_cost: Array = np.zeros(n)
        self.notes: list[str] = []
        targets = {target.name for target in config.targets}
        for limit in config.limits:
            if limit.column not in targets:
                values, faults = _numbers(pool.candidates, limit.column)
                self.kept &= values <= limit.bound if limit.sign == "<=" else values >= limit.bound
                self._note(f"{limit.column} holds no number", faults, n, "they are not proposed")
        if config.cost:
            values, faults = _numbers(pool.candidates, config.cost)
            good = self.priced = values > 0
            faults = {c.name: faults.get(c.name, f"it is {v:g}") for c, v in zip(pool.candidates, values) if not v > 0}
            median = float(np.median(values[good])) if good.any() else 1.0
            self.log_cost = np.log(np.where(good, values, median))
            self._note(f"{config.cost} holds no cost above 0", faults, n, f"they count as the median, {median:g}")

    def _note(self, what: str, faults: dict[str, str], n: int, then: str) -> None:
        if faults:
            name, fault = next(iter(faults.items()))
            self.notes.append(f"{what} for {len(faults)} of {n} candidates ({name}: {fault}): {then}")


def _numbers(candidates: Sequence[Candidate], name: str) -> tuple[Array, dict[str, str]]:
    """A column's values, NaN where it holds none, and why by candidate."""
    texts = [candidate.cells.get(name, "") for candidate in candidates]
    unit = common_unit(texts)
    values, faults = np.full(len(texts), np.nan), {}
    for i, text in enumerate(texts):
        try:
            if missing(text):
                raise ValueError("it is empty")
            values[i] = number(text, unit)
        except ValueError as error:
            faults[candidates[i].name] = str(error)
    return values, faults
