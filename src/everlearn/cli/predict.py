"""``everlearn predict``: what a run says of pictures or texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from everlearn.cli import show
from everlearn.cli.given import open_run, read_given


def predict(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    files: Annotated[list[Path] | None, typer.Argument(help="pictures, DICOM files; texts, tables of texts")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text itself, for a run on texts; repeatable")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes to name for each picture")] = 3,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Classes and probabilities of FILES by RUN's last checkpoint."""
    with open_run(run) as opened:
        learner, names = opened.learner(), opened.journal.class_names()
        inputs, given = read_given(opened, files or [], text or [])
        prediction = learner.predict(inputs)
    rows: list[dict[str, Any]] = []
    for file, row in zip(given, prediction.probabilities):
        probabilities, order = row.sort(descending=True)
        named = {names[prediction.codes[i]]: round(p, 6) for i, p in zip(order.tolist(), probabilities.tolist())}
        rows.append({"file": file, "class": next(iter(named)), "probabilities": named})
    if json:
        show.print_json({"run": str(run), "step": learner.step, "predictions": rows})
        return
    table = Table("file", "class", "probability", "then")
    for row in rows:
        (best, p), *others = list(row["probabilities"].items())[:top]
        table.add_row(row["file"], best, f"{p:.1%}", ", ".join(f"{name} {q:.1%}" for name, q in others))
    show.out.print(table)
