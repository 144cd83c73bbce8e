"""Results of `run_table` as a table: means, intervals, published figures beside them."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from everlearn.metrics.continual import measures

# Average accuracy after the last task, %: Mai et al. 2021 (arXiv 2103.13885), Table 1, by memory size.
PUBLISHED: dict[str, dict[str, dict[int, float]]] = {
    "CIFAR-10": {
        "ER": {200: 22.4, 500: 29.0, 1000: 37.7},
        "MIR": {200: 23.8, 500: 33.6, 1000: 43.0},
        "GSS": {200: 23.0, 500: 28.5, 1000: 34.6},
        "A-GEM": {200: 18.2, 500: 18.3, 1000: 18.2},
        "ASERμ": {200: 28.5, 500: 39.8, 1000: 46.7},
        "ASERμ + NCM": {200: 34.1, 500: 43.7, 1000: 50.3},
        "SCR": {200: 48.6, 500: 59.6, 1000: 65.7},
    },
    "CIFAR-100": {
        "ER": {1000: 11.2, 2000: 14.6, 5000: 21.0},
        "MIR": {1000: 11.7, 2000: 14.9, 5000: 21.6},
        "GSS": {1000: 10.6, 2000: 13.5, 5000: 18.0},
        "A-GEM": {1000: 5.8, 2000: 6.0, 5000: 5.9},
        "ASERμ": {1000: 14.4, 2000: 17.5, 5000: 21.7},
        "ASERμ + NCM": {1000: 22.0, 2000: 25.2, 5000: 29.6},
        "SCR": {1000: 26.6, 2000: 32.8, 5000: 37.8},
    },
}


def dataset_of(class_names: Sequence[str]) -> str | None:
    """Which published set has these classes, if any.

    Examples
    --------
    >>> cifar10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
    >>> dataset_of(cifar10), dataset_of(["cat", "dog"])
    ('CIFAR-10', None)
    """
    names = {name.lower().replace(" ", "_") for name in class_names}
    if names == {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}:
        return "CIFAR-10"
    return "CIFAR-100" if len(names) == 100 and {"aquarium_fish", "maple_tree", "worm"} <= names else None


def summary(rows: Sequence[dict[str, Any]], dataset: str | None = None) -> list[dict[str, Any]]:
    """One entry for each name and memory size, in the order they first appear.

    Returns
    -------
    list of dict
        name, memory, seeds (how many), accuracy and interval (means over seeds in %, the interval's half width by
        Student's t at 95 %, None for one seed), forgetting, anytime_accuracy and worst_case_accuracy (%), seconds,
        forwards_per_sample, published (% or None).

    Examples
    --------
    >>> row = {"name": "ER", "memory": 200, "forgetting": 0.5, "seconds": 9.0, "forwards_per_sample": 6.0}
    >>> found = summary([row | {"average_accuracy": a} for a in (0.2, 0.22)], "CIFAR-10")[0]
    >>> found["seeds"], found["accuracy"], found["interval"], found["published"]
    (2, 21.0, 12.71, 22.4)
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["memory"]), []).append(row)
    published = PUBLISHED.get(dataset or "", {})
    found = []
    for (name, memory), group in groups.items():
        accuracies = [100 * row["average_accuracy"] for row in group]
        found.append(
            {
                "name": name,
                "memory": memory,
                "seeds": len(group),
                "accuracy": round(statistics.mean(accuracies), 2),
                "interval": round(half_width(accuracies), 2) if len(group) > 1 else None,
                "forgetting": round(100 * statistics.mean(row["forgetting"] for row in group), 2),
                **{name: _mean_of(name, group) for name in ("anytime_accuracy", "worst_case_accuracy")},
                "seconds": round(statistics.median(row["seconds"] for row in group), 1),
                "forwards_per_sample": round(statistics.mean(row["forwards_per_sample"] for row in group), 1),
                "published": published.get(name.removesuffix(", averaged"), {}).get(memory),
            }
        )
    return found


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table.

    Examples
    --------
    >>> entry = dict(name="ER", memory=200, seeds=1, accuracy=21.0, interval=None, forgetting=50.0, seconds=9.0,
    ...              forwards_per_sample=6.0, published=22.4, anytime_accuracy=40.0, worst_case_accuracy=None)
    >>> print(as_markdown([entry]).splitlines()[2])
    | ER | 200 | 21.0 | 22.4 | 50.0 | 40.0 | – | 1 | 9.0 | 6.0 |
    """
    lines = [
        "| method | memory | accuracy, % | published | forgetting, % | anytime, % | worst case, % | seeds | seconds "
        "| forwards per sample |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for e in found:
        accuracy = f"{e['accuracy']:.1f}" + (f" ± {e['interval']:.1f}" if e["interval"] is not None else "")
        published = f"{e['published']:.1f}" if e["published"] is not None else "–"
        lines.append(
            f"| {e['name']} | {e['memory']} | {accuracy} | {published} | {e['forgetting']:z.1f} "
            f"| {_cell(e['anytime_accuracy'])} | {_cell(e['worst_case_accuracy'])} | {e['seeds']} "
            f"| {e['seconds']:.1f} | {e['forwards_per_sample']:.1f} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Processor, threads and versions, for the foot of a table."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    known = {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return known | {"python": platform.python_version()}


def _mean_of(name: str, rows: Sequence[dict[str, Any]]) -> float | None:
    """A measure of the accuracy matrices in %, the mean over rows."""
    found = [measures(row["accuracy_matrix"])[name] for row in rows if "accuracy_matrix" in row]
    known = [value for value in found if value is not None]
    return round(100 * statistics.mean(known), 2) if known else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:z.1f}"


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean by Student's t."""
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
