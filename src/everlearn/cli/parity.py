"""``everlearn parity``: does every layout compute what one process computes?"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from math import inf
from typing import Annotated

import typer

from everlearn.scaling.parity_run import LONGEST
from everlearn.scaling.processes import MOST

Verb = typer.Option


def parity(
    processes: Annotated[int, Verb(min=2, max=MOST, help=f"processes to start on this machine, at most {MOST}")] = 2,
    short: Annotated[bool, Verb("--short", help="one layout of each kind")] = False,
    model: Annotated[str, Verb(help="dense, moe, or both")] = "both",
    only: Annotated[str, Verb(help="only layouts with this in their name, such as 'pp2'")] = "",
    inject: Annotated[float, Verb(help="multiply every gradient, to see that the fault is found")] = 1.0,
    timeout: Annotated[float, Verb(help=f"seconds for all of it, 1 to {LONGEST:,.0f}")] = 1800.0,
    json: Annotated[bool, Verb("--json", help="print one JSON object instead of the table")] = False,
) -> None:
    """Compare every layout that some processes allow with one process: loss, gradient norm, weights after SGD steps."""
    from rich.text import Text

    from everlearn.cli import show
    from everlearn.scaling.parity import STEPS, TOLERANCE, Row
    from everlearn.scaling.parity_run import run as compare

    def row(r: Row) -> None:
        if not json:
            heading()
            mark = ("same", "green") if r.passed else ("DIFFERS", "red")
            figures = f"{r.loss:9.1e} {r.norm:9.1e} {r.weights:9.1e}"
            line = f"{r.model:6}{r.layout:34} {r.error or figures} {r.seconds:6.1f}  "
            show.out.print(Text.assemble(line, mark), soft_wrap=True)

    @cache
    def heading() -> None:  # with the first row, so that a refusal before it stands alone
        show.out.print(
            f"{'model':6}{'layout':34} {'loss':>9} {'norm':>9} {'weights':>9} {'s':>6}  errors after {STEPS} SGD steps",
            soft_wrap=True,
        )

    models = ("dense", "moe") if model == "both" else (model,)
    rows = compare(processes, short=short, models=models, only=only, inject=inject, timeout=timeout, row=row)
    wrong = [r for r in rows if not r.passed]
    if json:
        table = [{k: None if v == inf else v for k, v in asdict(r).items()} | {"passed": r.passed} for r in rows]
        known = {"processes": processes, "tolerance": TOLERANCE, "passed": not wrong, "layouts": len(rows)}
        show.print_json(known | {"rows": table, "versions": show.versions()})
    else:
        show.out.print(f"{len(rows) - len(wrong)} of {len(rows)} layouts equal one process to {TOLERANCE:g}")
    if wrong:
        raise typer.Exit(1)
