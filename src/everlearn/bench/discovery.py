"""Experiments until half of the best 1 % are found: Everlearn beside random choice, BoTorch and a greedy forest.

All strategies of a seed begin with the same ten random measurements and choose batches of eight from what is left; the
count includes the first ten. One that has not arrived after ``most`` experiments counts as so many. Everlearn is driven
through the class that ``everlearn discover`` uses. Results go to a file of JSON lines as they come, so that a table
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import csv
import gzip
import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.bench.continual import append_rows, read_rows
from everlearn.bench.discovery_peers import STRATEGIES, View
from everlearn.bench.discovery_splits import groups_of, split_rows
from everlearn.discovery import CampaignConfig
from everlearn.discovery.pool import open_pool
from everlearn.discovery.search import Search
from everlearn.errors import DataError, SettingError

FIRST, BATCH, MOST = 10, 8, 400
_LIBRARIES = ("everlearn", "torch", "numpy", "scikit-learn", "botorch", "rdkit", "pymatgen")
_FEWEST = 40  # candidates, below which the best 1 % are not worth a table


@dataclass(frozen=True)
class PoolSet:
    """A table whose values are all known.

    Parameters
    ----------
    name : str
    file : Path
        CSV, also packed by gzip.
    target : str
    minimise : bool
    inputs : {"smiles", "composition", "columns"} or None
        By default what the columns' names say.
    group : str or None
        Column whose groups a group split keeps together, such as the study; it is no input.
    task : str or None
        Only rows that have this in the column ``task``.
    ignore : tuple of str
        Further columns that are no inputs.
    """

    name: str
    file: Path
    target: str
    minimise: bool = False
    inputs: str | None = None
    group: str | None = None
    task: str | None = None
    ignore: tuple[str, ...] = ()


_COMPOSITIONS = "composition_properties.csv.gz"
SETS = {
    "tadf": PoolSet("TADF emitters, lowest gap", Path("tadf_oled.csv.gz"), "dE_ST_eV", True, "smiles"),
    "electrolytes": PoolSet(
        "lithium electrolytes, conductivity", Path("calisol23_electrolyte_conductivity.csv.gz"), "k", False, "columns",
        group="doi",
    ),
    "qm9": PoolSet("QM9, largest gap", Path("qm9_4targets.csv.gz"), "gap_hartree", False, "smiles"),
    "gap": PoolSet(
        "band gaps by composition", Path(_COMPOSITIONS), "y", False, "composition",
        task="matbench_expt_gap:gap expt",
    ),
    "tc": PoolSet(
        "superconductors, critical temperature", Path(_COMPOSITIONS), "y", False, "composition",
        task="superconductivity2018:Tc",
    ),
}  # fmt: skip


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
        table = _draw(pool, rows)
        self.digest = zlib.crc32(repr(table).encode())
        folder = scratch / f"{self.digest:08x}"
        plain = folder / "pool.csv"
        _write(table, plain)
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
        How many random and how many group splits the error of prediction is measured on.
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
    held = read_rows(file)
    about = _about(problem)
    known = {_key(row): row for row in held}
    found = []
    for seed in range(splits):
        key = about | {"kind": "split", "seed": seed}
        if _key(key) not in known:
            show(f"{problem.set.name}: prediction, split {seed}")
            known[_key(key)] = key | {"splits": split_rows(problem.search, problem.y, problem.groups, seed)}
            append_rows(file, [known[_key(key)]])
        found.append(known[_key(key)])
    for seed in seeds:
        for strategy in strategies:
            key = about | {"kind": "search", "strategy": strategy, "seed": seed, "most": most}
            if _key(key) not in known:
                show(f"{problem.set.name}: {strategy}, seed {seed}")
                begun = time.process_time()
                count, arrived = experiments(problem, strategy, seed, most)
                measured = {"experiments": count, "arrived": arrived, "seconds": time.process_time() - begun}
                known[_key(key)] = key | measured | {"versions": _versions()}
                append_rows(file, [known[_key(key)]])
            found.append(known[_key(key)])
    return found


def sets_in(folder: Path, names: Sequence[str]) -> list[PoolSet]:
    """The named sets, their files in a folder.

    Raises
    ------
    SettingError, DataError
        If there is no such set, or no such file.
    """
    found = []
    for name in names:
        if name not in SETS:
            raise SettingError(f"there is no set {name!r}; expected some of {', '.join(SETS)}")
        file = folder / SETS[name].file
        if not file.exists():
            raise DataError(f"{file}: there is no such file; --folder names where the sets are")
        found.append(replace(SETS[name], file=file))
    return found


def _draw(pool: PoolSet, rows: int) -> list[dict[str, str]]:
    """The table's rows with a value, cells stripped, at most so many."""
    opened = gzip.open if pool.file.suffix == ".gz" else open
    try:
        with opened(pool.file, "rt", encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            header = reader.fieldnames or []
            missing = [name for name in (pool.target, pool.group) if name and name not in header]
            if missing:
                raise SettingError(f"{pool.file} has no column {missing[0]!r}; it has {', '.join(header)}")
            table = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"{pool.file}: there is no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {pool.file}: {error}") from error
    table = [row for row in table if row[pool.target] and (pool.task is None or row["task"] == pool.task)]
    if not table:
        raise DataError(f"{pool.file} has no row with a value of {pool.target}")
    if len(table) > rows:
        table = [table[int(i)] for i in sorted(np.random.default_rng(0).choice(len(table), rows, replace=False))]
    return table


def _write(table: list[dict[str, str]], plain: Path) -> None:
    plain.parent.mkdir(parents=True, exist_ok=True)
    with plain.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


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
