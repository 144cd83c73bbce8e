"""``everlearn export``: a run's model as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everlearn.cli import show
from everlearn.cli.given import open_run
from everlearn.runs.export import export as export_run


def export(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    out: Annotated[Path, typer.Option(help="file to write")],
    format_: Annotated[str, typer.Option("--format", help="onnx, or torch: torch.export's archive")] = "onnx",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Write RUN's model: uint8 pictures in, probabilities out; class names and preprocessing inside."""
    with open_run(run) as opened, show.console.status("exporting"):
        result = export_run(opened, format_, out)
    if json:
        show.print_json(result)
        return
    c, h, w = result["preprocessing"]["shape"]
    show.out.print(f"{out}: uint8 [n, {c}, {h}, {w}] to probabilities of {', '.join(result['classes'])}")
