"""Experiments until half of the best 1 % are found: Everlearn, random choice, a plain BoTorch loop, a greedy forest.

    python benchmarks/discovery.py                                  # the five sets beside the project, 20 seeds
    python benchmarks/discovery.py --sets tadf,gap --seeds 5 --peers random,forest
    python benchmarks/discovery.py --data POOL.csv --target COLUMN [--minimise] [--inputs smiles]

All strategies of a seed begin with the same ten random measurements and choose batches of eight from what is left; the
count includes the first ten. A strategy that has not arrived after a third of the pool counts as a third of the pool
(marked ≥). Everlearn is driven through the class that `everlearn discover` uses. BoTorch: SingleTaskGP as it comes on
standardised descriptors, qLogExpectedImprovement, batches by optimize_acqf_discrete. Forest: scikit-learn's, 100 trees,
the candidates it foresees best. Beside it the error of prediction under a random and a group split (scaffolds, element
sets, studies).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn.discovery import CampaignConfig, Measurement
from everlearn.discovery.pool import Pool, open_pool
from everlearn.discovery.search import Search
from everlearn.discovery.surrogate import Surrogate

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
FIRST, BATCH = 10, 8
LIBRARIES = ("everlearn", "torch", "numpy", "scikit-learn", "botorch", "rdkit", "pymatgen")
SETS = {  # file, target, minimise, inputs, rows kept, group
    "tadf": ("tadf_oled.csv.gz", "dE_ST_eV", True, "smiles", None),
    "electrolytes": ("calisol23_electrolyte_conductivity.csv.gz", "k", False, "columns", "doi"),
    "qm9": ("qm9_4targets.csv.gz", "gap_hartree", False, "smiles", None),
    "gap": ("composition_properties.csv.gz:matbench_expt_gap:gap expt", "y", False, "composition", None),
    "tc": ("composition_properties.csv.gz:superconductivity2018:Tc", "y", False, "composition", None),
}


class Problem:
    """A pool whose values are all known, and a search over it."""

    def __init__(
        self,
        name: str,
        file: Path,
        target: str,
        minimise: bool,
        inputs: str | None,
        ignore: list[str],
        group: str | None,
    ) -> None:
        self.name = name
        config = {
            "targets": [{"name": target, "minimise": minimise}],
            "inputs": inputs,
            "ignore": ignore,
            "batch": BATCH,
        }
        self.config = CampaignConfig.of(config)
        self.pool = open_pool(file, self.config)
        self.repeats = sum(1 for each in self.pool.aside if "repeat" in each.reason)
        self.left_out = len(self.pool.aside) - self.repeats
        values: dict[str, list[float]] = {}
        for each in self.pool.measured:
            values.setdefault(each.candidate, []).append(float(each.values[0]))  # type: ignore[arg-type]
        self.pool.candidates = [c for c in self.pool.candidates if c.name in values]
        self.pool.measured = []
        self.y = np.array([float(np.mean(values[c.name])) for c in self.pool.candidates])
        self.sign = -1.0 if minimise else 1.0
        self.search = Search(self.pool, self.config)
        self.groups = [c.cells[group] for c in self.pool.candidates] if group else _groups(self.pool)
        n = len(self.y)
        worth = self.sign * self.y
        self.best = worth >= np.sort(worth)[-max(1, round(0.01 * n))]
        self.needed = math.ceil(self.best.sum() / 2)

    def run(self, strategy: str, seed: int) -> tuple[int, bool]:
        """Experiments until half of the best are found, and whether they were."""
        rng = np.random.default_rng(seed)
        n = len(self.y)
        known = [int(i) for i in rng.choice(n, min(FIRST, n), replace=False)]
        limit = n if strategy == "random" else max(FIRST, n // 3)
        while self.best[known].sum() < self.needed and len(known) < limit:
            known += STRATEGIES[strategy](self, known, seed, rng)
        done = bool(self.best[known].sum() >= self.needed)
        if not done:
            return limit, False
        hits = np.cumsum(self.best[known])  # the experiment within the batch that arrived
        return int(np.searchsorted(hits, self.needed) + 1), True

    def open(self, known: list[int]) -> np.ndarray:
        free = np.ones(len(self.y), dtype=bool)
        free[known] = False
        return np.flatnonzero(free)


def everlearn(problem: Problem, known: list[int], seed: int, rng: np.random.Generator) -> list[int]:
    names = problem.pool.candidates
    problem.search.learn([Measurement(names[i].name, (float(problem.y[i]),)) for i in known])
    return [each.row for each in problem.search.propose(BATCH)]


def random(problem: Problem, known: list[int], seed: int, rng: np.random.Generator) -> list[int]:
    rows = problem.open(known)
    return [int(i) for i in rng.choice(rows, min(BATCH, len(rows)), replace=False)]


def forest(problem: Problem, known: list[int], seed: int, rng: np.random.Generator) -> list[int]:
    from sklearn.ensemble import RandomForestRegressor

    table, rows = _table(problem), problem.open(known)
    model = RandomForestRegressor(100, max_features=1 / 3, random_state=seed, n_jobs=1)
    model.fit(table[known], problem.sign * problem.y[known])
    return [int(i) for i in rows[np.argsort(-model.predict(table[rows]), kind="stable")[:BATCH]]]


def botorch(problem: Problem, known: list[int], seed: int, rng: np.random.Generator) -> list[int]:
    from botorch.acquisition import qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    dense = torch.as_tensor(np.hstack([b.values for b in problem.search.features.blocks if b.kind == "matern"]))
    rows = problem.open(known)
    y = torch.as_tensor(problem.sign * problem.y[known])[:, None]
    model = SingleTaskGP(dense[known], y)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    acquisition = qLogExpectedImprovement(model, float(y.max()), SobolQMCNormalSampler(torch.Size([64]), seed=seed))
    chosen, _ = optimize_acqf_discrete(acquisition, q=BATCH, choices=dense[rows], max_batch_size=512, unique=True)
    found: list[int] = []
    for point in chosen:  # several candidates may share a point: each is taken once
        same = [int(i) for i in rows[(dense[rows] == point).all(1).numpy()] if int(i) not in found]
        found += same[:1]
    return found or random(problem, known, seed, rng)


STRATEGIES: dict[str, Callable[[Problem, list[int], int, np.random.Generator], list[int]]] = {
    "random": random,
    "forest": forest,
    "botorch": botorch,
    "everlearn": everlearn,
}


def errors(problem: Problem, seed: int = 0, train: int = 500, test: int = 500) -> dict[str, dict[str, float]]:
    """Mean absolute error and rank correlation of the surrogate's prediction under a random and a group split."""
    rng = np.random.default_rng(seed)
    n = len(problem.y)
    order = rng.permutation(n)
    found = {"random split": _error(problem, order[: min(train, n * 4 // 5)], order[-min(test, n // 5) :])}
    names = list(dict.fromkeys(problem.groups))
    if len(names) > 1:
        shuffled = {names[int(i)]: place for place, i in enumerate(rng.permutation(len(names)))}
        by_group = np.array(sorted(range(n), key=lambda i: shuffled[problem.groups[i]]))
        border = problem.groups[by_group[n * 4 // 5]]
        inside = np.array([i for i in by_group[: n * 4 // 5] if problem.groups[i] != border])
        outside = np.array([i for i in by_group[n * 4 // 5 :] if problem.groups[i] != border])
        if len(inside) > 20 and len(outside) > 20:
            chosen = rng.permutation(inside)[:train], rng.permutation(outside)[:test]
            found["group split"] = _error(problem, *chosen)
    return found


def _error(problem: Problem, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    from scipy.stats import spearmanr

    surrogate = Surrogate(problem.search.features)
    y, mean, spread = problem.y, problem.y[train].mean(), problem.y[train].std()
    surrogate.fit(train, (y[train] - mean) / spread)
    said = surrogate.predict(test)[0] * spread + mean
    return {
        "mae": float(np.abs(said - y[test]).mean()),
        "mae_of_the_mean": float(np.abs(mean - y[test]).mean()),
        "spearman": float(spearmanr(said, y[test])[0]),
        "train": len(train),
        "test": len(test),
    }


def interval(counts: list[int]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    from scipy.stats import t

    mean = float(np.mean(counts))
    if len(counts) < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf(0.975, len(counts) - 1) * np.std(counts, ddof=1) / math.sqrt(len(counts)))
    return mean, mean - half, mean + half


def _table(problem: Problem) -> np.ndarray:
    if not hasattr(problem, "table"):
        problem.table = problem.search.features.table().astype(np.float32)  # type: ignore[attr-defined]
    return problem.table  # type: ignore[attr-defined, no-any-return]


def _groups(pool: Pool) -> list[str]:
    """Murcko scaffold of a molecule, set of elements of a composition."""
    if pool.inputs == "smiles":
        from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

        return [MurckoScaffoldSmiles(c.text) for c in pool.candidates]
    if pool.inputs == "composition":
        from everlearn.discovery import compositions

        return ["".join(sorted(compositions.read(c.text))) for c in pool.candidates]
    return ["" for _ in pool.candidates]


def _load(name: str, rows: int, scratch: Path) -> Problem:
    """A set as a plain CSV of at most so many rows, drawn with seed 0; composition sets keep one task."""
    spec, target, minimise, inputs, group = SETS[name]
    file, _, task = spec.partition(":")
    with gzip.open(SHARED / file, "rt", encoding="utf-8") as text:
        table = [row for row in csv.DictReader(text) if row[target].strip() and (not task or row["task"] == task)]
    if len(table) > rows:
        table = [table[int(i)] for i in sorted(np.random.default_rng(0).choice(len(table), rows, replace=False))]
    for row in table:
        if "salt" in row:
            row["salt"] = row["salt"].strip()
    plain = scratch / f"{name}.csv"
    with plain.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return Problem(name, plain, target, minimise, inputs, [group] if group else [], group)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--peers", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=5000, help="of each set, at most")
    parser.add_argument("--data", type=Path, help="any table, instead of the sets")
    parser.add_argument("--target")
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--inputs", choices=["smiles", "composition", "columns"])
    parser.add_argument("--group", help="column of the groups for the group split; not an input")
    parser.add_argument("--scratch", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.scratch.mkdir(parents=True, exist_ok=True)
    stream = sys.stderr if options.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    result: dict[str, Any] = {
        "measure": "experiments until half of the best 1 % are found, first ten included",
        "first": FIRST,
        "batch": BATCH,
        "seeds": options.seeds,
        "rows": options.rows,
        "machine": f"{platform.machine()}, 1 thread",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "sets": {},
    }
    for name in [str(options.data)] if options.data else options.sets.split(","):
        begun = time.perf_counter()
        problem = _given(options) if options.data else _load(name, options.rows, options.scratch)
        say(
            f"\n{problem.name}: {len(problem.y)} candidates, {int(problem.best.sum())} best, {problem.needed} to find; "
            f"{problem.left_out} rows left out, {problem.repeats} repeats averaged; {time.perf_counter() - begun:.0f} s"
        )
        result["sets"][problem.name] = measure(problem, options.peers.split(","), options.seeds, say)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1))
    if options.json:
        json.dump(result, sys.stdout)


def measure(problem: Problem, strategies: list[str], seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """One set: errors of prediction, then every strategy with the same seeds."""
    n, m = len(problem.y), int(problem.best.sum())
    expected = problem.needed * (n + 1) / (m + 1)  # of random choice, exactly
    entry: dict[str, Any] = {"candidates": n, "best": m, "needed": problem.needed, "left_out": problem.left_out}
    entry |= {"random_expected": expected, "errors": errors(problem), "strategies": {}}
    for split, figures in entry["errors"].items():
        of_mean = f"MAE {figures['mae']:.4g} (of the mean {figures['mae_of_the_mean']:.4g})"
        say(f"  prediction, {split}: {of_mean}, rank correlation {figures['spearman']:.2f}")
    for strategy in strategies:
        begun = time.process_time()
        runs = [problem.run(strategy, seed) for seed in range(seeds)]
        seconds = time.process_time() - begun
        counts = [count for count, _ in runs]
        mean, low, high = interval(counts)
        late = sum(not done for _, done in runs)
        entry["strategies"][strategy] = {
            "experiments": counts, "mean": mean, "interval_95": [low, high], "not_arrived": late, "seconds": seconds,
        }  # fmt: skip
        say(
            f"  {strategy:10s} {'≥ ' if late else ''}{mean:.0f} ({low:.0f} … {high:.0f}) experiments, "
            f"{mean / expected:.1%} of random's {expected:.0f}; {seconds:.0f} s"
        )
    return entry


def _given(options: argparse.Namespace) -> Problem:
    group = [options.group] if options.group else []
    name = str(options.data)
    return Problem(name, options.data, options.target, options.minimise, options.inputs, group, options.group)


if __name__ == "__main__":
    main()
