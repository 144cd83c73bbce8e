"""``everlearn forget``, ``rollback`` and ``audit-log``: taking back, and proving what was done."""

from __future__ import annotations

import json as json_
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.cli import show
from everlearn.cli.given import open_run
from everlearn.errors import RunError, SettingError
from everlearn.runs import Run
from everlearn.runs import forgetting as forgetting_
from everlearn.runs.intact import open_journal
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews

_PATIENCE = 120.0
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def forget(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    sample: Annotated[str | None, typer.Option(help="a sample's number, or a case such as s12 or u3")] = None,
    patient: Annotated[
        str | None, typer.Option(help="a patient's id, as the source or the DICOM files have it")
    ] = None,
    json: Json = False,
) -> None:
    """Forget a sample or a patient: out of memory, journal, cases and states; what rested on it is learned anew."""
    if (sample is None) == (patient is None):
        raise SettingError("expected either --sample ID or --patient ID")
    with open_run(run) as opened:
        reviews = Reviews(opened.journal.db)
        if sample is not None:
            found = forgetting_.find_sample(reviews, sample)
        else:
            assert patient is not None
            found = forgetting_.find_patient(opened, reviews, patient, _pseudonym(run, patient))
    if found.ids:
        did = _from_the_stream(run, found, json)
    else:
        did = _ordered(run, "forget", {"reviews": found.reviews, "cases": found.cases})
    if json:
        show.print_json({"run": str(run), **did})
        return
    show.out.print(
        f"forgotten: {did['reviews']} reviews, {did['cases']} cases, {did['samples']} samples of the stream; "
        f"{did['versions']} versions that had learned them are deleted. The source's own files are not touched."
    )


def rollback(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    version: Annotated[int, typer.Argument(min=1, help="number of the version to serve again")],
    json: Json = False,
) -> None:
    """Serve an earlier VERSION of RUN again; what was learned since is set aside."""
    answer = _ordered(run, "roll back", {"version": version})
    if json:
        show.print_json({"run": str(run), **answer})
        return
    show.out.print(f"version {version} is in service; {len(answer['set_aside'])} reviews learned since are set aside")


def audit_log(
    action: Annotated[str, typer.Argument(help="verify")],
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    json: Json = False,
) -> None:
    """Check the chain of RUN's audit log: everlearn audit-log verify RUN."""
    if action != "verify":
        raise SettingError(f"the action is {action!r}; expected: everlearn audit-log verify RUN")
    with closing(open_journal(run)) as journal:
        found = Reviews(journal.db).verify_audit()
    if json:
        show.print_json({"run": str(run), "entries": found.entries, "last": found.last, "fault": found.fault})
    if found.fault is not None:
        raise RunError(f"the audit log of {run} does not verify: {found.fault}")
    if not json:
        show.out.print(f"{found.entries} entries, unbroken; the last hash is {found.last}", soft_wrap=True)


def _from_the_stream(run: Path, found: forgetting_.Found, quiet: bool) -> dict[str, Any]:
    """Samples of the stream: learned again from the beginning, so nobody else may be at work on the run."""
    with Run.open(run, write=True) as opened:
        reviews = Reviews(opened.journal.db)
        kept = len(opened.versions.there())
        did = forgetting_.erase(reviews, found, "command line") | {"versions": kept}
        with show.learning("learning again", quiet=quiet) as moment:
            forgetting_.relearn_stream(opened, reviews, moment)
        reviewing = Reviewing(opened, reviews)
        while reviewing.work():
            pass
        opened.journal.db.scrub()
    return did


def _ordered(run: Path, kind: str, detail: dict[str, Any]) -> dict[str, Any]:
    """Have it done by the server's writer if one is running, else here."""
    with open_run(run) as opened:
        reviews = Reviews(opened.journal.db)
        number = reviews.order(kind, detail, "command line")
        answer, until = None, time.monotonic() + _PATIENCE
        with show.console.status(kind):
            while answer is None and time.monotonic() < until:
                _work_if_alone(run)
                row = reviews.rows("SELECT done, answer FROM orders WHERE number = ?", number)[0]
                answer = json_.loads(row["answer"]) if row["done"] is not None else None
                time.sleep(0.0 if answer else 0.2)
    if answer is None:
        raise RunError(
            f"{run} is in use by another process, which has not done it yet; it stays ordered (number {number})"
        )
    if "error" in answer:
        raise RunError(str(answer["error"]))
    return {"samples": 0} | answer if kind == "forget" else answer


def _work_if_alone(run: Path) -> None:
    try:
        opened = Run.open(run, write=True)
    except RunError as error:
        if "in use" not in str(error):
            raise
        return
    with opened:
        reviews = Reviews(opened.journal.db)
        reviewing = Reviewing(opened, reviews)
        while reviewing.work():
            pass


def _pseudonym(run: Path, patient: str) -> str:
    try:
        from everlearn.server.cases import pseudonym
        from everlearn.server.security import secret
    except ImportError as error:
        raise SettingError(f"this needs {error.name}; install it with: pip install 'everlearn[serve]'") from None
    return pseudonym(secret(run), patient)
