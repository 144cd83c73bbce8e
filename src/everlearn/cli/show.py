"""What the verbs print: results on standard output, progress and warnings on standard error."""

from __future__ import annotations

import json as json_
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from everlearn.data.naming import writable
from everlearn.metrics.continual import measures
from everlearn.runs import Moment, Run

_SIDE_BY_SIDE = 9  # tasks in a terminal of 80 columns

console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # what it prints may be anybody's text
"""Progress, notes and warnings; never results."""

out = Console(highlight=False, markup=False, emoji=False)
"""Results; in a file or a pipe as wide as tables need."""
if not out.is_terminal:
    out.width = 150


@contextmanager
def live(*columns: ProgressColumn, quiet: bool) -> Iterator[Progress]:
    """A live line on standard error, shown once it is started: a refusal before that stands alone."""
    progress = Progress(*columns, console=console, disable=quiet)
    try:
        yield progress
    finally:
        if progress.live.is_started:  # else Rich would print an empty line
            progress.stop()


@contextmanager
def learning(title: str = "learning", quiet: bool = False) -> Iterator[Callable[[Moment], None]]:
    """A live line with samples, task, loss, accuracy and time left, on standard error."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[news]}"),
        TimeRemainingColumn(),
    )

    def moment(m: Moment) -> None:
        progress.start()  # with the first step
        for text in m.alarms if not quiet else ():
            warn(text)
        task = "" if m.task is None else f"task {m.task + 1}  "
        mean = "" if m.average_accuracy is None else f"  accuracy {m.average_accuracy:.1%}"
        loss = "" if math.isnan(m.loss) else f"loss {m.loss:.2f}"
        progress.update(bar, completed=m.position, total=m.total, news=f"{task}{loss}{mean}")

    with live(*columns, quiet=quiet) as progress:
        bar = progress.add_task(title, total=None, news="")
        yield moment


def warn(text: str) -> None:
    """One line on standard error that stops nothing."""
    console.print(text, style="yellow", soft_wrap=True)


def result(run: Run, seconds: float, steps: int, samples: int) -> dict[str, Any]:
    """What a learned run amounts to; ``steps`` and ``samples`` were learned in these ``seconds``.

    Forward transfer is against guessing among the run's classes.
    """
    matrix, forwards = run.progress.matrix, run.progress.forwards
    seen = run.progress.samples_seen
    return {
        "method": run.config.learner.method,
        **measures(matrix, 1 / max(1, len(run.journal.class_names()))),
        "calibration_error": run.progress.calibration_error,
        "accuracy_before_learning": accuracy_before_learning(run),
        "alarms": [
            {"step": row["step"], "kind": row["kind"], **json_.loads(row["detail"])} for row in run.journal.alarms()
        ],
        "accuracy_matrix": matrix,
        "samples_seen": seen,
        "quarantined": run.progress.quarantined,
        "steps": run.progress.step,
        "steps_per_second": round(steps / seconds, 2) if seconds else None,
        "seconds": round(seconds, 2),
        "seconds_per_sample": round(seconds / samples, 6) if samples else None,
        "forwards_per_sample": round(forwards / seen, 2) if forwards is not None and seen else None,
        "memory_bytes": run.memory_bytes,
        "seed": run.config.seed,
        "run": str(run.path),
        "versions": versions(),
    }


def accuracy_before_learning(run: Run) -> float | None:
    """Share of samples, of classes known by then, that were predicted right before they were learned."""
    looks = run.journal.looks()
    samples = sum(row["samples"] for row in looks)
    return round(sum(row["correct"] for row in looks) / samples, 6) if samples else None


def versions() -> dict[str, str]:
    """Versions that decide a figure."""
    return {name: version(name) for name in ("everlearn", "torch", "torchvision", "timm", "numpy")} | {
        "python": platform.python_version()
    }


def learned(result: dict[str, Any], run: Run, json: bool) -> None:
    """Print the result of a run, for a person or for a machine."""
    if json:
        print_json(result)
        return
    measured = ""
    if result["accuracy_matrix"]:
        matrix_table(result["accuracy_matrix"], f"{result['method']}: accuracy on each task after each task, %")
        mean = result["average_accuracy"]
        measured = "nothing was held out to measure" if mean is None else f"average accuracy {mean:.1%}"
        for name in ("forgetting", "anytime_accuracy", "worst_case_accuracy", "backward_transfer", "forward_transfer"):
            if result[name] is not None:
                measured += f", {name.removesuffix('_accuracy').replace('_', ' ')} {result[name]:z.1%}"
        if result["calibration_error"] is not None:
            measured += f", calibration error {result['calibration_error']:.1%}"
        measured += "\n"
    if result["accuracy_before_learning"] is not None:
        measured += f"accuracy before learning {result['accuracy_before_learning']:.1%}, "
    out.print(
        f"{measured}{result['samples_seen']} samples in {result['seconds']:.1f} s "
        f"({result['steps_per_second']} steps/s), memory {result['memory_bytes'] / 2**10:,.0f} KiB"
    )
    if result["quarantined"]:
        warn(f"{result['quarantined']} samples could not be read; see `everlearn report {run.path}`")
    what = "--text TEXT" if run.config.data.of_texts else "PICTURE"
    out.print(f"next: everlearn explain {run.path} {what}, everlearn report {run.path}")


def matrix_table(matrix: list[list[float | None]], title: str) -> None:
    """Print an accuracy matrix; of more tasks than fit side by side, each right after it was learned and at the end."""
    tasks = len(matrix[0]) if matrix else 0
    table = Table(title=title, title_justify="left")
    if tasks > _SIDE_BY_SIDE:
        for name in ("task", "when learned", "at the end"):
            table.add_column(name, justify="right")
        for i, row in enumerate(matrix):
            table.add_row(str(i + 1), _percent(row[i]), _percent(matrix[-1][i]))
    else:
        for name in ("after task", *map(str, range(1, tasks + 1))):
            table.add_column(name, justify="right")
        for i, row in enumerate(matrix):
            table.add_row(str(i + 1), *map(_percent, row))
    out.print(table)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(writable(json_.dumps(value, ensure_ascii=False)))


def machine() -> str:
    """Processor and threads, for the foot of a table."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
