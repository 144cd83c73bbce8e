"""``everlearn audit``: which remembered samples to look at again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from everlearn.cli import show
from everlearn.cli.given import open_run
from everlearn.places import check_place
from everlearn.report.audit import Audit, audit_page, audit_run, write_csv


def audit(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    k: Annotated[int, typer.Option(help="neighbours that vote")] = 20,
    top: Annotated[int, typer.Option(help="lines of each table, and of each kind on the page", min=1)] = 12,
    out: Annotated[Path | None, typer.Option(help="directory for page and CSV; by default RUN/audit")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Rank what RUN remembers: likely wrong labels, near-duplicates, the most helpful and the most harmful samples."""
    folder = out or run / "audit"
    with open_run(run) as opened, show.console.status("judging each remembered sample by the others"):
        check_place(folder)
        found, learner = audit_run(opened, k)
    file = write_csv(found, folder / "audit.csv")
    page = audit_page(found, learner, f"Audit of {run.resolve().name}", folder / "audit.html", 2 * top)
    if json:
        show.print_json(
            {
                "run": str(run), "samples": len(found.entries), "k": k, "page": str(page), "csv": str(file),
                "likely_wrong": [e.row() for e in found.wrong],
                "near_duplicates": [[a.id, b.id] for a, b in found.duplicates],
                "most_helpful": [e.id for e in found.helpful[:top]],
                "most_harmful": [e.id for e in found.harmful[:top]],
            }
        )  # fmt: skip
        return
    _print(found, top)
    show.out.print(f"table: {file.absolute()}\npage: {page.absolute()}", soft_wrap=True)


def _print(found: Audit, top: int) -> None:
    wrong = Table(title=f"{len(found.wrong)} likely wrong labels", title_justify="left")
    for name in ("id", "label", "votes", "rather", "votes", "value", "sample"):
        wrong.add_column(name, justify="right" if name in ("id", "votes", "value") else "left")
    for e in found.wrong[:top]:
        votes = f"{e.support:.0%}", f"{e.suggested_support:.0%}"
        wrong.add_row(str(e.id), e.label, votes[0], e.suggested, votes[1], f"{e.value:+.5f}", e.name)
    pairs = Table(title=f"{len(found.duplicates)} pairs of near-duplicates", title_justify="left")
    for name in ("ids", "labels", "distance", "correlation"):
        pairs.add_column(name)
    for a, b in found.duplicates[:top]:
        labels = a.label if a.label == b.label else Text(f"{a.label} / {b.label}", "red")
        pairs.add_row(f"{a.id}, {b.id}", labels, f"{a.distance:.3f}", f"{a.correlation:.3f}")
    for table in (wrong, pairs):
        show.out.print(table if table.row_count else f"no {str(table.title).partition(' ')[2]}")
    for title, entries in (("most helpful", found.helpful), ("most harmful", found.harmful)):
        listed = ", ".join(f"{e.id} ({e.label}, {e.value:+.5f})" for e in entries[:5])
        show.out.print(f"{title}: {listed or 'none'}")
