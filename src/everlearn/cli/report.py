"""``everlearn report``: write a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everlearn.cli import show
from everlearn.cli.bar import bar
from everlearn.cli.given import open_run
from everlearn.report import report_run


def report(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Write RUN/report.html: accuracy over time, memory, and six predictions explained."""
    with open_run(run) as opened, bar("explaining six predictions", quiet=json) as tell:
        file = report_run(opened, progress=tell)
    if json:
        show.print_json({"report": str(file)})
    else:
        show.out.print(f"report: {file.absolute()}", soft_wrap=True)
