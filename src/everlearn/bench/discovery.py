"""Experiments until half of the best 1 % are found: Everlearn beside random choice, BoTorch and a greedy forest.

All strategies of a seed begin with the same ten random measurements and choose batches of eight from what is left; the
count includes the first ten. One that has not arrived after ``most`` experiments counts as so many. Everlearn is driven
through the class that ``everlearn discover`` uses. Results go to a file of JSON lines as they come, so that a table
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.bench.discovery_peers import STRATEGIES, View
from everlearn.bench.discovery_reasons import reason_checks
from everlearn.bench.discovery_sets import SETS, PoolSet, draw, sets_in, write_table
from everlearn.bench.discovery_splits import groups_of, split_rows
from everlearn.bench.rows import append_rows, read_rows
from everlearn.discovery import CampaignConfig
from everlearn.discovery.pool import open_pool
from everlearn.discovery.search import Search
from everlearn.errors import DataError, SettingError

__all__ = ["MOST", "SETS", "STRATEGIES", "PoolSet", "Problem", "experiments", "run_table", "sets_in"]

FIRST, BATCH, MOST = 10, 8, 400
_LIBRARIES = ("everlearn", "torch", "numpy", "scikit-learn", "botorch", "rdkit", "pymatgen")
_FEWEST = 40  # candidates, below which the best 1 % are not worth a table


class Problem:
    """A pool whose values are all known, and a search over it.

    Parameters
    ----------
    pool : PoolSet
    rows : int
        At most so many rows, drawn with seed 0.
    scratch : Path
        Where the drawn table and what RDKit computed of it are kept.

    Attributes
    ----------
    y : ndarray
        ``[N]``, repeats averaged.
    best : ndarray of bool
        ``[N]``, the best 1 %; ``needed`` is half of them.
    """

    def __init__(self, pool: PoolSet, rows: int, scratch: Path) -> None:
        self.set = pool
        table = draw(pool, rows)
        self.digest = zlib.crc32(repr(table).encode())
        folder = scratch / f"{self.digest:08x}"
        plain = folder / "pool.csv"
        write_table(table, plain)
        ignore = [name for name in (pool.group, "task", *pool.ignore) if name and name in table[0]]
        self.config = CampaignConfig.of(
            {
                "targets": [{"name": pool.target, "minimise": pool.minimise}],
                "inputs": pool.inputs, "ignore": ignore, "batch": BATCH,
            }
        )  # fmt: skip
        self.pool = open_pool(plain, self.config)
        self.repeats = sum("repeat" in each.reason for each in self.pool.aside)
        self.left_out = len(self.pool.aside) - self.repeats
        values: dict[str, list[float]] = {}
        for each in self.pool.measured:
            values.setdefault(each.candidate, []).append(float(each.values[0]))  # type: ignore[arg-type]
        self.pool.candidates = [c for c in self.pool.candidates if c.name in values]
        self.pool.measured = []
        n = len(self.pool.candidates)
        if n < _FEWEST:
            raise DataError(f"{pool.file} has {n} usable rows with {pool.target}; expected {_FEWEST} or more")
        self.y = np.array([float(np.mean(values[c.name])) for c in self.pool.candidates])
        self.search = Search(self.pool, self.config, folder)
        self.groups = groups_of(self.pool, pool.group)
        worth = -self.y if pool.minimise else self.y
        self.best = worth >= np.sort(worth)[-max(1, round(0.01 * n))]
        self.needed = math.ceil(self.best.sum() / 2)

    @property
    def random_expected(self) -> float:
        """Experiments that random choice needs, exactly: the mean of the needed-th order statistic."""
        return self.needed * (len(self.y) + 1) / (int(self.best.sum()) + 1)


def experiments(problem: Problem, strategy: str, seed: int, most: int = MOST) -> tuple[int, bool]:
    """Experiments until half of the best are found, and whether they were; random choice is never cut short."""
    rng = np.random.default_rng(seed)
    n = len(problem.y)
    view = View(problem.search, problem.y, -1.0 if problem.set.minimise else 1.0, BATCH, seed, rng)
    known = [int(i) for i in rng.choice(n, FIRST, replace=False)]
    limit = n if strategy == "random" else min(most, n)
    while problem.best[known].sum() < problem.needed and len(known) < limit:
        known += STRATEGIES[strategy](view, known)
    if problem.best[known].sum() < problem.needed:
        return limit, False
    hits = np.cumsum(problem.best[known])  # the experiment within the batch that arrived
    count = int(np.searchsorted(hits, problem.needed) + 1)
    return min(count, limit), count <= limit


def run_table(
    problem: Problem,
    strategies: Sequence[str],
    seeds: Sequence[int],
    file: Path,
    most: int = MOST,
    splits: int = 5,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Run what the file does not hold yet, and append it.

    Parameters
    ----------
    problem : Problem
    strategies : sequence of str
        Keys of `STRATEGIES`.
    seeds : sequence of int
        All strategies with the first seed come first.
    file : Path
        JSON lines: what was run on the same rows is taken from it.
    most : int
        Experiments after which a strategy other than random choice gives up.
    splits : int
        How many random and how many group splits the error of prediction is measured on, and how many batches'
        reasons are checked.
    show : callable, optional
        Called with a line of text before each run.

    Returns
    -------
    list of dict
        The results of this table, old and new.
    """
    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise SettingError(f"there is no strategy {strategy!r}; expected some of {', '.join(STRATEGIES)}")
    known = {_key(row): row for row in read_rows(file)}
    found: list[dict[str, Any]] = []

    def once(about: dict[str, Any], what: str, work: Callable[[], dict[str, Any]]) -> None:
        row = _about(problem) | about
        if _key(row) not in known:
            show(f"{problem.set.name}: {what}, seed {about['seed']}")
            known[_key(row)] = row | work()
            append_rows(file, [known[_key(row)]])
        found.append(known[_key(row)])

    for seed in range(splits):
        once({"kind": "split", "seed": seed}, "prediction", partial(_splits, problem, seed))
        once({"kind": "reasons", "seed": seed}, "reasons", partial(_reasons, problem, seed))
    for seed in seeds:
        for strategy in strategies:
            about = {"kind": "search", "strategy": strategy, "seed": seed, "most": most}
            once(about, strategy, partial(_searched, problem, strategy, seed, most))
    return found


def _splits(problem: Problem, seed: int) -> dict[str, Any]:
    return {"splits": split_rows(problem.search, problem.y, problem.groups, seed)}


def _reasons(problem: Problem, seed: int) -> dict[str, Any]:
    return {"checks": reason_checks(problem.search, problem.y, BATCH, seed)}


def _searched(problem: Problem, strategy: str, seed: int, most: int) -> dict[str, Any]:
    begun = time.process_time()
    count, arrived = experiments(problem, strategy, seed, most)
    seconds = time.process_time() - begun
    return {"experiments": count, "arrived": arrived, "seconds": seconds, "versions": _versions()}


def _about(problem: Problem) -> dict[str, Any]:
    return {
        "set": problem.set.name, "digest": problem.digest, "candidates": len(problem.y),
        "best": int(problem.best.sum()), "needed": problem.needed, "random_expected": problem.random_expected,
        "left_out": problem.left_out, "repeats": problem.repeats,
    }  # fmt: skip


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("set", "digest", "kind", "strategy", "seed", "most"))


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
