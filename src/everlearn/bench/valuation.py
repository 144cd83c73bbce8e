"""The tables of valuation: speed beside pyDVL, dattri and cleanlab, memory at a million candidates, wrong labels found.

Results go to a file of JSON lines, one a line of the table, so that an interrupted table goes on.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlearn.bench.rows import append_rows, read_rows
from everlearn.errors import SettingError
from everlearn.valuation import (
    knn_shapley,
    mean_knn_shapley,
    threshold_knn_shapley,
    truncated_knn_shapley,
    weighted_knn_shapley,
)

K = 5
_RADIUS = 30.0
_NEAREST = 1000
Problem = tuple[Tensor, Tensor, Tensor, Tensor]  # evaluation features, their labels, candidates, their labels


@dataclass(frozen=True)
class Size:
    """Of a problem of ten Gaussian classes."""

    candidates: int = 10_000
    points: int = 1_000
    features: int = 128


def problem(size: Size, seed: int) -> Problem:
    """Ten Gaussian classes."""
    generator = torch.Generator().manual_seed(seed)
    labels, wanted = (torch.randint(10, (n,), generator=generator) for n in (size.candidates, size.points))
    centres = torch.randn(10, size.features, generator=generator)
    x, q = (torch.randn(len(y), size.features, generator=generator).mul_(2).add_(centres[y]) for y in (labels, wanted))
    return q, wanted, x, labels


def dattri(q: Tensor, wanted: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """``[N]`` mean values by dattri."""
    from dattri.algorithm.data_shapley import KNNShapleyAttributor
    from torch.utils.data import DataLoader, TensorDataset

    candidates = DataLoader(TensorDataset(x, labels), batch_size=len(x))
    points = DataLoader(TensorDataset(q, wanted), batch_size=len(q))
    found = torch.as_tensor(KNNShapleyAttributor(K).attribute(candidates, points))
    return found.mean(1 if found.shape[0] == len(x) else 0)


def pydvl(q: Tensor, wanted: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """``[N]`` mean values by pyDVL."""
    from pydvl.valuation.dataset import Dataset
    from pydvl.valuation.methods.knn_shapley import KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    test = Dataset(q.numpy(), wanted.numpy())
    method = KNNShapleyValuation(KNeighborsClassifier(K), test, progress=False)
    return torch.from_numpy(method.fit(Dataset(x.numpy(), labels.numpy())).result.values.copy())


def cleanlab(q: Tensor, wanted: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """``[N]`` by cleanlab, of its own problem: every sample is an evaluation point, its K nearest get values."""
    from cleanlab.data_valuation import data_shapley_knn

    found = data_shapley_knn(labels.numpy(), features=x.numpy(), metric="euclidean", k=K)
    return torch.from_numpy(np.asarray(found))


def _mean(q: Tensor, wanted: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    return mean_knn_shapley(q, wanted, x, labels, K)


LINES: dict[str, tuple[str, str | None, Callable[..., Any], str]] = {
    "mean": ("mean values", None, _mean, "exact"),
    "each": ("values for each point", None, partial(knn_shapley, k=K), "exact"),
    "soft": ("soft labels", None, partial(knn_shapley, k=K, utility="soft"), "exact"),
    "threshold": ("threshold", None, partial(threshold_knn_shapley, radius=_RADIUS), "exact, its own utility"),
    "truncated": ("truncated", None, partial(truncated_knn_shapley, k=K, nearest=_NEAREST), "1000 nearest"),
    "weighted": ("weighted", None, partial(weighted_knn_shapley, k=K), "exact, its own utility"),
    "dattri": ("mean values", "dattri", dattri, "exact"),
    "pydvl": ("mean values", "pyDVL", pydvl, "exact"),
    "cleanlab": ("values", "cleanlab", cleanlab, "N × N, its K nearest only"),
}


def run_speed(
    names: Sequence[str],
    size: Size,
    file: Path,
    *,
    peer_points: int | None = None,
    seed: int = 0,
    repeat: int = 3,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Processor seconds of each line on one problem; what the file holds is taken from it.

    Parameters
    ----------
    names : sequence of str
        Keys of `LINES`.
    size : Size
    file : Path
        JSON lines.
    peer_points : int, optional
        Evaluation points for peers and for the weighted values, whose time grows with them: theirs is multiplied up,
        and the row says so. By default all.
    seed, repeat : int
        Of the problem; the best of so many runs counts, of peers' one.
    show : callable, optional
        Called with a line of text before each line.

    Returns
    -------
    list of dict
        name, package, seconds, scaled_from (points, or None), note, ratio to our mean values, error (the largest
        difference from our mean values, of peers that give the same).
    """
    known = {_key(row): row for row in read_rows(file)}
    data: Problem | None = None
    found = []
    for name in names:
        if name not in LINES:
            raise SettingError(f"there is no line {name!r}; expected some of {', '.join(LINES)}")
        title, package, call, note = LINES[name]
        version = f"{package} {_version(package)}" if package else None
        slow = package in ("dattri", "pyDVL") or name == "weighted"
        points = min(peer_points or size.points, size.points) if slow else size.points
        head = {"table": "speed", "line": name, "name": title, "package": version, "note": note, "seed": seed}
        head |= asdict(size) | {"scaled_from": points if points < size.points else None}
        if _key(head) not in known:
            show(f"{version or 'everlearn'} {title}")
            data = data or problem(size, seed)
            part = (data[0][:points], data[1][:points], data[2], data[3])
            seconds, values = _timed(lambda: call(*part), 1 if slow or package else repeat)  # noqa: B023
            row = head | {"seconds": seconds * size.points / points, "torch": torch.__version__, "error": None}
            if package in ("dattri", "pyDVL"):
                row["error"] = float((values.double() - mean_knn_shapley(*part, k=K)).abs().max())
            append_rows(file, [row])
            known[_key(head)] = row
        found.append(known[_key(head)])
    ours = next((row["seconds"] for row in found if row["line"] == "mean"), None)
    return [row | {"ratio": None if ours is None else row["seconds"] / ours} for row in found]


def run_large(size: Size, max_bytes: int, seed: int = 0) -> dict[str, Any]:
    """Mean values of very many candidates in a process of its own: seconds, and the memory it takes at its peak.

    Returns
    -------
    dict
        seconds, peak_bytes, data_bytes (the problem itself), idle_bytes (the process before it), sum (of the values)
        and vote (what they must sum to by the efficiency axiom, from an independent search).
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_large, (size, max_bytes, seed))


def _large(size: Size, max_bytes: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    idle = _peak()
    q, wanted, x, labels = problem(size, seed)
    begun = time.process_time()
    values = mean_knn_shapley(q, wanted, x, labels, K, max_bytes=max_bytes)
    seconds, peak = time.process_time() - begun, _peak()
    right = 0.0
    for point, label in zip(q[:100], wanted[:100]):
        right += float((labels[((x - point) ** 2).sum(1).topk(K, largest=False).indices] == label).sum())
    first = float(mean_knn_shapley(q[:100], wanted[:100], x, labels, K, max_bytes=max_bytes).sum())
    held = sum(t.numel() * t.element_size() for t in (q, wanted, x, labels, values))
    return asdict(size) | {
        "seconds": seconds, "peak_bytes": peak, "data_bytes": held, "idle_bytes": idle, "max_bytes": max_bytes,
        "sum": first, "vote": right / (K * 100),
    }  # fmt: skip


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Speeds as a Markdown table.

    Examples
    --------
    >>> row = {"name": "mean values", "package": None, "seconds": 0.5, "ratio": 1.0, "note": "exact", "scaled_from": 20}
    >>> print(as_markdown([row | {"error": None}]).splitlines()[2])
    | mean values | 0.500 | 1.0 | – | exact; time multiplied up from 20 points |
    """
    lines = ["| values | seconds | times ours | largest difference | |", "|---|---|---|---|---|"]
    for row in rows:
        note = row["note"] + (f"; time multiplied up from {row['scaled_from']} points" if row["scaled_from"] else "")
        title = row["name"] + (f" ({row['package']})" if row["package"] else "")
        error = "–" if row["error"] is None else f"{row['error']:.1g}"
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.1f}"
        lines.append(f"| {title} | {row['seconds']:.3f} | {ratio} | {error} | {note} |")
    return "\n".join(lines)


def memory_line(row: dict[str, Any]) -> str:
    """What `run_large` found, in a sentence."""
    peak, held, idle, bound = (row[n] / 2**20 for n in ("peak_bytes", "data_bytes", "idle_bytes", "max_bytes"))
    return (
        f"{row['seconds']:.0f} processor seconds; at its peak the process held {peak:.0f} MiB: {idle:.0f} before it "
        f"began, {held:.0f} of features, labels and values, {bound:.0f} allowed for work. The values of the first "
        f"100 points sum to {row['sum']:.6f}; their neighbours' votes say {row['vote']:.6f}."
    )


def installed() -> list[str]:
    """Lines of the table that can be run here."""
    return [name for name, (_, package, _, _) in LINES.items() if package is None or _has(package)]


def _timed(call: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    best, found = float("inf"), None
    for _ in range(repeat):
        begun = time.process_time()
        found = call()
        best = min(best, time.process_time() - begun)
    return best, found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingError(f"this line needs {package}, which is not installed") from error


def _has(package: str) -> bool:
    try:
        return bool(_version(package))
    except SettingError:
        return False


def _peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(n) for n in ("table", "line", "package", "seed", *asdict(Size()), "scaled_from"))
