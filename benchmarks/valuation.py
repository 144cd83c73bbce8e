"""Speed of KNN-Shapley beside pyDVL, dattri and cleanlab, and how well low values find flipped labels.

    python benchmarks/valuation.py [--candidates 10000 --points 1000 --features 128] [--json FILE]

A peer that is not installed or does not run is named with the reason. Peers take their evaluation points one by one, so
they are timed on ``--peer-points`` of them and the time is multiplied; the table says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from everlearn.valuation import knn_shapley, mean_knn_shapley, truncated_knn_shapley, weighted_knn_shapley
from everlearn.valuation import threshold_knn_shapley as threshold

K = 5


def seconds(call, repeat=3):
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def data(candidates, points, features, seed):
    generator = torch.Generator().manual_seed(seed)
    labels, wanted = (torch.randint(10, (n,), generator=generator) for n in (candidates, points))
    centres = torch.randn(10, features, generator=generator)
    x = centres[labels] + 2 * torch.randn(candidates, features, generator=generator)
    q = centres[wanted] + 2 * torch.randn(points, features, generator=generator)
    return q, wanted, x, labels


def dattri(q, wanted, x, labels):
    from dattri.algorithm.data_shapley import KNNShapleyAttributor
    from torch.utils.data import DataLoader, TensorDataset

    candidates = DataLoader(TensorDataset(x, labels), batch_size=len(x))
    points = DataLoader(TensorDataset(q, wanted), batch_size=len(q))
    return KNNShapleyAttributor(K).attribute(candidates, points)


def pydvl(q, wanted, x, labels):
    from pydvl.utils import Dataset, Utility
    from pydvl.value.shapley.knn import knn_shapley as theirs
    from sklearn.neighbors import KNeighborsClassifier

    held = Dataset(x.numpy(), labels.numpy(), q.numpy(), wanted.numpy())
    return theirs(Utility(KNeighborsClassifier(K), held), progress=False)


def cleanlab(q, wanted, x, labels):
    """Its own problem: each candidate valued by all others, values beyond the K nearest left out."""
    from cleanlab.data_valuation import data_shapley_knn

    both = np.concatenate([wanted.numpy(), labels.numpy()])[: len(x)]
    return data_shapley_knn(both, features=torch.cat([q, x]).numpy()[: len(x)], metric="euclidean", k=K)


def speed(args):
    q, wanted, x, labels = data(args.candidates, args.points, args.features, args.seed)
    n = args.peer_points
    rows = [("everlearn knn_shapley", seconds(lambda: knn_shapley(q, wanted, x, labels, K)), "exact")]
    rows.append(("everlearn mean_knn_shapley", seconds(lambda: mean_knn_shapley(q, wanted, x, labels, K)), "exact"))
    rows.append(("everlearn threshold", seconds(lambda: threshold(q, wanted, x, labels, 30.0)), "exact, own utility"))
    found = truncated_knn_shapley(q, wanted, x, labels, K, nearest=1000)
    took = seconds(lambda: truncated_knn_shapley(q, wanted, x, labels, K, nearest=1000))
    rows.append(("everlearn truncated (1000 nearest)", took, f"error ≤ {found.error:.4f}"))
    took = seconds(lambda: weighted_knn_shapley(q[:n], wanted[:n], x, labels, K), 1) * args.points / n
    rows.append(("everlearn weighted", took, f"exact, own utility; scaled from {n} points"))
    for name, peer in (("dattri", dattri), ("pydvl", pydvl)):
        try:
            took = seconds(lambda: peer(q[:n], wanted[:n], x, labels), 1) * args.points / n  # noqa: B023
            rows.append((f"{name} {importlib.metadata.version(name)}", took, f"scaled from {n} points"))
        except Exception as error:
            rows.append((name, None, f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:60]}"))
    try:
        size = min(args.candidates, 4000)
        took = seconds(lambda: cleanlab(q, wanted, x[:size], labels[:size]), 1) * args.points / size
        rows.append((f"cleanlab {importlib.metadata.version('cleanlab')}", took, f"K nearest only; N {size}, scaled"))
    except Exception as error:
        rows.append(("cleanlab", None, f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:60]}"))
    ours = rows[0][1]
    return [{"method": a, "seconds": b, "ratio": None if b is None else b / ours, "note": c} for a, b, c in rows]


def mislabelled(args):
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(args.seed)
    x, y = torch.tensor(digits.data, dtype=torch.float32), digits.target.copy()
    flipped = rng.choice(len(y), len(y) // 10, replace=False)
    y[flipped] = (y[flipped] + rng.integers(1, 10, len(flipped))) % 10
    truth = np.zeros(len(y), bool)
    truth[flipped] = True
    scores = {"everlearn knn_shapley": _self_values(x, torch.from_numpy(y)).numpy()}
    try:
        from cleanlab.data_valuation import data_shapley_knn
        from cleanlab.rank import get_label_quality_scores
        from sklearn.model_selection import cross_val_predict
        from sklearn.neighbors import KNeighborsClassifier

        scores["cleanlab data_shapley_knn"] = data_shapley_knn(y, features=digits.data, metric="euclidean", k=K)
        p = cross_val_predict(KNeighborsClassifier(K), digits.data, y, cv=5, method="predict_proba")
        scores["cleanlab label quality (kNN, 5 folds)"] = get_label_quality_scores(y, p)
    except ImportError:
        pass
    return [{"method": name, **_found(score, truth)} for name, score in scores.items()]


def _self_values(x, y):
    """How much each sample's label agrees with what its neighbours vote, and it with theirs: mean of both."""
    n = len(y)
    others = [torch.cat([torch.arange(0, i), torch.arange(i + 1, n)]) for i in range(n)]
    given, received = torch.zeros(n), torch.zeros(n)
    for i, rest in enumerate(others):
        s = knn_shapley(x[i : i + 1], y[i : i + 1], x[rest], y[rest], K)[0]
        given[rest] += s
        received[i] = s.sum()
    return given + received


def _found(score, truth):
    from sklearn.metrics import roc_auc_score

    worst = np.argsort(score, kind="stable")[: truth.sum()]
    return {"precision = recall": float(truth[worst].mean()), "AUROC": float(roc_auc_score(truth, -score))}


def show(title, rows):
    print(f"\n{title}")
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    for row in [names, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _cell(value):
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--peer-points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    print(f"{args.points} points × {args.candidates} candidates × {args.features} features, K {K}, seed {args.seed}")
    print(f"{machine}, " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    table = {"speed": speed(args), "mislabelled": mislabelled(args)}
    show("Speed", table["speed"])
    show("Digits with 10 % flipped labels: the lowest values are the flipped ones", table["mislabelled"])
    if args.json:
        head = {"machine": machine, "versions": versions, "seed": args.seed, "k": K}
        args.json.write_text(json.dumps(head | table, indent=1))


if __name__ == "__main__":
    main()
