"""``everlearn evaluate``: how well a run knows a source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from everlearn.cli import show
from everlearn.cli.given import open_run
from everlearn.runs import evaluate_source


def evaluate(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    source: Annotated[
        str,
        typer.Argument(
            help="any source that `everlearn learn` reads: its test part where it has one, else all of it; of a source "
            "that RUN learned from only what was held out then"
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Accuracy of RUN's last checkpoint on SOURCE, over all and by class."""
    with open_run(run) as opened, show.console.status("evaluating"):
        result = evaluate_source(opened, source)
    if json:
        show.print_json(result)
        return
    table = Table("class", "samples", "accuracy %")
    for name, row in result["classes"].items():
        table.add_row(name, str(row["samples"]), f"{100 * row['accuracy']:.1f}")
    show.out.print(table)
    error = f"calibration error {result['calibration_error']:.3f}"
    show.out.print(f"accuracy {result['accuracy']:.1%}, {error}, on {result['samples']} samples: {result['part']}")
    if result["unknown_classes"]:
        show.warn(f"never learned, so never predicted: {', '.join(result['unknown_classes'])}")
    if result["quarantined"]:
        show.warn(f"{result['quarantined']} samples could not be read")
