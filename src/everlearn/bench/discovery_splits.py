"""Error and calibration of prediction under a random split, and under one that keeps groups together.

A random split leaves a molecule's nearest kin on both sides, and a table of formulations repeats a study's recipes;
chemistry that was not seen yet is foreseen less well. Groups: Murcko scaffolds (Bemis & Murcko 1996, *The properties of
known drugs*, J. Med. Chem. 39), sets of elements, or a column such as the study.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.bench.discovery_peers import View
from everlearn.discovery import Measurement, compositions
from everlearn.discovery.needs import need
from everlearn.discovery.pool import Pool
from everlearn.discovery.search import Search

TRAIN, TEST = 500, 500
_FEWEST = 20


def groups_of(pool: Pool, column: str | None) -> list[str]:
    """Each candidate's group: the column's, else the Murcko scaffold of a molecule, the set of elements of a formula.

    Candidates described by columns have no group unless a column names it.
    """
    if column:
        return [c.cells[column] for c in pool.candidates]
    if pool.inputs == "smiles":
        scaffold = need("rdkit.Chem.Scaffolds.MurckoScaffold").MurckoScaffoldSmiles
        return [str(scaffold(c.text)) for c in pool.candidates]
    if pool.inputs == "composition":
        return ["".join(sorted(compositions.read(c.text))) for c in pool.candidates]
    return ["" for _ in pool.candidates]


def split(groups: list[str] | None, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows to learn from and rows to foresee, four to one; with groups, each is on one side only.

    None where the groups do not allow it.

    Examples
    --------
    >>> train, test = split(list("aabbccddee") * 10, 100, np.random.default_rng(0))
    >>> names = np.array(list("aabbccddee") * 10)
    >>> set(names[train]) & set(names[test]), len(test)
    (set(), 20)
    """
    order = rng.permutation(n)
    if groups is None:
        return order[: n * 4 // 5][:TRAIN], order[n * 4 // 5 :][:TEST]
    names = list(dict.fromkeys(groups))
    place = dict(zip(names, rng.permutation(len(names)).tolist()))
    by_group = np.array(sorted(range(n), key=lambda i: place[groups[i]]))
    sizes = np.cumsum([groups.count(name) for name in sorted(names, key=lambda name: place[name])])
    border = int(sizes[np.argmin(np.abs(sizes - n * 4 / 5))])
    train, test = by_group[:border], by_group[border:]
    if min(len(train), len(test)) < _FEWEST:
        return None
    return rng.permutation(train)[:TRAIN], rng.permutation(test)[:TEST]


def split_rows(search: Search, y: np.ndarray, groups: list[str], seed: int) -> list[dict[str, Any]]:
    """Errors under both splits, of Everlearn's surrogate, a random forest and the mean of what was learned."""
    found = []
    for name, by in (("random", None), ("group", groups)):
        chosen = split(by, len(y), np.random.default_rng([seed, 11]))
        if chosen is not None:
            found.append({"split": name} | _errors(search, y, *chosen, seed))
    return found


def _errors(search: Search, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, Any]:
    """What the campaign would have said of the test rows: expected value, 80 % interval as shown, and as fitted."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]
    from sklearn.ensemble import RandomForestRegressor

    names = search.pool.candidates
    search.learn([Measurement(names[i].name, (float(y[i]),)) for i in train])
    said = search.outlook([int(i) for i in test])[search.config.targets[0].name]
    value, low, high = (np.array([getattr(each, name) for each in said]) for name in ("value", "low", "high"))
    table = View(search, y, 1.0, 1, seed, np.random.default_rng(seed)).table
    forest = RandomForestRegressor(100, max_features=1 / 3, random_state=seed, n_jobs=1).fit(table[train], y[train])
    truth = y[test]
    return {
        "train": len(train),
        "test": len(test),
        "mae": float(np.abs(value - truth).mean()),
        "mae_forest": float(np.abs(forest.predict(table[test]) - truth).mean()),
        "mae_of_the_mean": float(np.abs(y[train].mean() - truth).mean()),
        "spearman": float(spearmanr(value, truth)[0]),
        "within_80": float(((low <= truth) & (truth <= high)).mean()),
        "width_80": float(np.median(high - low) / max(float(np.ptp(np.quantile(truth, [0.1, 0.9]))), 1e-12)),
        "stretch": search.calibration()["stretch"],
    }
