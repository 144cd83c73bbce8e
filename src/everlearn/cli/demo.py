"""``everlearn demo``: the main job on scikit-learn's digits, three learners side by side."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from everlearn.cli import show
from everlearn.data import open_source
from everlearn.errors import RunError
from everlearn.report import report_run
from everlearn.runs import Config, Run
from everlearn.runs import learn as learn_stream
from everlearn.runs.choose import choose, look, options_of

METHODS = ("naive", "er", "aser")
MEMORY = 200


def demo(
    run: Annotated[
        Path, typer.Option(help="where the demonstration's runs go; an earlier demonstration there is replaced")
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of everything drawn")] = 0,
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Learn digits class by class, three ways: fine-tuning, experience replay, ASER; then explain six predictions."""
    _clear(run)
    begun, results = time.perf_counter(), []
    for method in METHODS:
        results.append(_learn(run / method, method, seed, json))
    runs = [Run.open(run / method) for method in METHODS]
    try:
        with show.console.status("explaining six predictions"):
            file = report_run(runs[-1], runs[:-1], file=run / "report.html")
    finally:
        for opened in runs:
            opened.close()
    if json:
        seconds = round(time.perf_counter() - begun, 2)
        show.print_json({"results": results, "report": str(file), "serve": _serve(run), "seconds": seconds})
        return
    table = Table(
        "method",
        "average accuracy",
        "forgetting",
        "seconds",
        title="digits, 5 tasks of 2 classes, one pass",
        title_justify="left",
    )
    for result in results:
        table.add_row(
            result["method"],
            f"{result['average_accuracy']:.1%}",
            f"{result['forgetting']:z.1%}",
            f"{result['seconds']:.1f}",
        )
    show.out.print(table)
    show.out.print(f"report: {file.absolute()}", soft_wrap=True)
    show.out.print(f"look at cases, correct, see it learned: {_serve(run)}", soft_wrap=True)


def _learn(path: Path, method: str, seed: int, json: bool) -> dict[str, Any]:
    learner = {"method": method, "backbone": "slim_resnet18", "memory": MEMORY}
    found = choose(look(open_source("builtin:digits"), None), learner | {"size": 16})
    data = {"source": "builtin:digits", "size": 16}
    config = Config.of({"data": data, "learner": learner | {"options": options_of(found)}, "seed": seed})
    with Run.create(path, config) as opened:
        begun = time.perf_counter()
        with show.learning(method, quiet=json) as moment:
            learn_stream(opened, moment)
        done = opened.progress
        result = show.result(opened, time.perf_counter() - begun, done.step, done.samples_seen)
    if not json:
        show.matrix_table(result["accuracy_matrix"], f"{method}: accuracy on each task after each task, %")
    return result


def _serve(run: Path) -> str:
    """The command that opens the page of the last learner's run, as it is called from here.

    Examples
    --------
    >>> _serve(Path("runs/demo")).endswith("serve runs/demo/aser")
    True
    """
    program = "everlearn"
    if shutil.which(program) is None and Path(sys.argv[0]).name == program:
        program = sys.argv[0]
    return shlex.join([program, "serve", str(run / METHODS[-1])])


def _clear(run: Path) -> None:
    """Remove an earlier demonstration; refuse to touch anything else."""
    if not run.exists():
        return
    ours = {*METHODS, "report.html"}
    strange = sorted(path.name for path in run.iterdir() if path.name not in ours) if run.is_dir() else [run.name]
    if strange:
        raise RunError(f"{run} holds {strange[0]!r}, which is no part of a demonstration; choose another --run")
    shutil.rmtree(run)
