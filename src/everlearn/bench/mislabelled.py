"""The table of wrong labels: a tenth is flipped, and each method has to find them; cleanlab beside us."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from everlearn.bench.explain import load_model
from everlearn.data import Source, load
from everlearn.valuation import wrong_labels

_SIDE = 96  # pixels a side at which pictures are encoded
Found = tuple[NDArray[np.float64], NDArray[np.bool_]]  # the lowest score is the likeliest wrong; flagged


def encoded(source: Source, count: int, weights: Path | None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features ``[n, 1280]`` of a frozen EfficientNet-Lite0 at 96 pixels and labels ``[n]`` of training samples."""
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(~source.test))[:count]
    inputs, _, kept = load(source, chosen)
    model, found = load_model(weights), []
    with torch.no_grad():
        for part in inputs.split(50):
            x = F.interpolate(part.expand(-1, 3, -1, -1).float() / 127.5 - 1, size=_SIDE, mode="bilinear")
            maps = model.forward_features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
            found.append(model.forward_head(maps, pre_logits=True).float())  # type: ignore[operator]
    return torch.cat(found), torch.from_numpy(np.asarray(source.labels)[kept]).long()


def flipped(labels: Tensor, classes: int, share: float = 0.1, seed: int = 0) -> tuple[Tensor, NDArray[np.bool_]]:
    """Labels of which a share is replaced by another class at random, and where.

    Examples
    --------
    >>> import torch
    >>> wrong, where = flipped(torch.zeros(20, dtype=torch.int64), 3, share=0.25)
    >>> int((wrong != 0).sum()), int(where.sum())
    (5, 5)
    """
    rng = np.random.default_rng([seed, 1])
    where = np.zeros(len(labels), bool)
    where[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    shift = torch.from_numpy(rng.integers(1, classes, int(where.sum())))
    wrong = labels.clone()
    wrong[torch.from_numpy(where)] = (labels[torch.from_numpy(where)] + shift) % classes
    return wrong, where


def run_mislabelled(
    features: Tensor, labels: Tensor, classes: int, seed: int = 0, show: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Each method on the same flipped labels; cleanlab's where it is installed.

    Returns
    -------
    list of dict
        name, package, seconds, auroc, top (share of flipped among as many lowest scores as were flipped: precision
        and recall at once), precision and recall of what the method flags by its own rule (None where it has none).
    """
    wrong, where = flipped(labels, classes, seed=seed)
    found = []
    for name, package, method in _methods():
        version = f"{package} {importlib.metadata.version(package)}" if package else None
        show(f"{version or 'everlearn'} {name}")
        begun = time.process_time()
        score, flagged = method(features, wrong)
        seconds = time.process_time() - begun
        row: dict[str, Any] = {"name": name, "package": version, "seconds": seconds}
        found.append(row | quality(score, flagged, where))
    return found


def quality(
    score: NDArray[np.float64], flagged: NDArray[np.bool_] | None, where: NDArray[np.bool_]
) -> dict[str, float | None]:
    """How well scores and flags tell where labels are wrong."""
    from sklearn.metrics import roc_auc_score

    lowest = np.argsort(score, kind="stable")[: where.sum()]
    some = flagged is not None and bool(flagged.any())
    return {
        "auroc": float(roc_auc_score(where, -score)),
        "top": float(where[lowest].mean()),
        "precision": float(where[flagged].mean()) if some else None,
        "recall": float(flagged[where].mean()) if flagged is not None else None,
    }


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| method | AUROC | flipped among the lowest, % | precision, % | recall, % | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        title = row["name"] + (f" ({row['package']})" if row["package"] else "")
        shares = ["–" if row[n] is None else f"{100 * row[n]:.1f}" for n in ("top", "precision", "recall")]
        lines.append(f"| {title} | {row['auroc']:.3f} | {' | '.join(shares)} | {row['seconds']:.1f} |")
    return "\n".join(lines)


def _methods() -> list[tuple[str, str | None, Callable[[Tensor, Tensor], Any]]]:
    found: list[tuple[str, str | None, Callable[[Tensor, Tensor], Any]]] = [("wrong_labels", None, _ours)]
    try:
        importlib.metadata.version("cleanlab")
    except importlib.metadata.PackageNotFoundError:
        return found
    found += [
        ("find_label_issues, logistic regression", "cleanlab", _cleanlab_by_regression),
        ("find_label_issues, 10 neighbours", "cleanlab", _cleanlab_by_neighbours),
        ("data_shapley_knn", "cleanlab", _cleanlab_shapley),
    ]
    return found


def _ours(features: Tensor, labels: Tensor) -> Found:
    found = wrong_labels(features, labels)
    return found.score.numpy(), found.flagged.numpy()


def _cleanlab(features: Tensor, labels: Tensor, classifier: Any) -> Found:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.model_selection import cross_val_predict

    x, y = (features / features.std()).numpy(), labels.numpy()
    p = cross_val_predict(classifier, x, y, cv=5, method="predict_proba")
    return get_label_quality_scores(y, p), find_label_issues(y, p)


def _cleanlab_by_regression(features: Tensor, labels: Tensor) -> Found:
    from sklearn.linear_model import LogisticRegression

    return _cleanlab(features, labels, LogisticRegression(C=0.01, max_iter=200))


def _cleanlab_by_neighbours(features: Tensor, labels: Tensor) -> Found:
    from sklearn.neighbors import KNeighborsClassifier

    return _cleanlab(features, labels, KNeighborsClassifier(10, metric="cosine"))


def _cleanlab_shapley(features: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], None]:
    from cleanlab.data_valuation import data_shapley_knn

    return data_shapley_knn(labels.numpy(), features=features.numpy(), metric="cosine", k=10), None
