"""Forgetting: a sample or a patient leaves memory, journal, cases and every state; what rested on it is learned anew.

A review is unlearned by taking up the last state that had not seen it and learning the reviews behind it again. A
sample of the stream is unlearned by learning the stream again without it: no state from before it is kept. Either way
the result is what a learner would be that never saw it. The source's own files are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import DataError
from everlearn.runs import audit_log, checkpoints
from everlearn.runs.build import build_source
from everlearn.runs.checkpoints import Progress
from everlearn.runs.database import Database
from everlearn.runs.learn import Moment, learn
from everlearn.runs.reviews import REVIEW_IDS, Reviews, case_name
from everlearn.runs.run import Run
from everlearn.runs.watch import WATCH_IDS

if TYPE_CHECKING:
    from everlearn.runs.reviewing import Reviewing

ADD_REMOVED = "INSERT INTO removed VALUES (?, ?) ON CONFLICT DO NOTHING"


@dataclass(frozen=True)
class Found:
    """What belongs to the sample or patient: numbers of reviews and of cases sent, ids of the stream's samples."""

    reviews: list[int] = field(default_factory=list)
    cases: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reviews or self.cases or self.ids)


def find_sample(reviews: Reviews, id_: str) -> Found:
    """What belongs to a sample: a number is a sample of the stream or a review's, s… or u… a case.

    Raises
    ------
    DataError
        If there is none, or the id has another form.
    """
    if (case := case_name(id_)) is not None:
        rows = [
            row
            for name in _spellings(reviews.db, "reviews", "case_id", case)
            for row in reviews.rows("SELECT number FROM reviews WHERE case_id = ?", name)
        ]
        sent = reviews.rows("SELECT number FROM cases WHERE 'u' || number = ?", case)
        found = Found(sorted(row["number"] for row in rows), [row["number"] for row in sent])
    elif id_.isdecimal() and len(id_) < 16:
        number = int(id_)
        if number >= REVIEW_IDS:
            rows = reviews.rows(
                "SELECT number FROM reviews WHERE number = ? AND status != 'forgotten'", number - REVIEW_IDS
            )
            found = Found(reviews=[row["number"] for row in rows])
        else:
            found = Found(ids=[row["id"] for row in reviews.rows("SELECT id FROM samples WHERE id = ?", number)])
    else:
        raise DataError(f"the sample is {id_!r}; expected the number of a sample, or a case's id such as s12 or u3")
    if not found:
        raise DataError(f"the run holds nothing of sample {id_}")
    return found


def find_patient(run: Run, reviews: Reviews, patient: str, pseudonym: str) -> Found:
    """What belongs to a patient, by pseudonym in the journal and by name in the run's sources."""
    rows = reviews.rows("SELECT number FROM reviews WHERE patient = ?", pseudonym)
    sent = reviews.rows("SELECT number FROM cases WHERE patient = ?", pseudonym)
    ids: list[int] = []
    for part in run.config.parts:
        if part.data.watch:
            continue  # a class folder names no patients
        source = build_source(run.config, shape=run.shape, part=part.data)
        if source.patients is None:
            continue
        first, _ = run.journal.source(part.data.source, len(source), source.class_names)
        run.journal.commit()
        theirs = set((np.flatnonzero(source.patients == patient) + first).tolist())
        ids += [row["id"] for row in reviews.rows("SELECT id FROM samples") if row["id"] in theirs]
    found = Found([row["number"] for row in rows], [row["number"] for row in sent], ids)
    if not found:
        raise DataError("the run holds nothing of this patient")
    return found


def erase(reviews: Reviews, found: Found, actor: str) -> dict[str, Any]:
    """Take what was found out of the journal and the log of predictions, and delete every state that had learned it."""
    cases = [f"u{number}" for number in found.cases]
    with reviews.transaction() as db:
        for number in found.reviews:
            row = db.row("SELECT case_id FROM reviews WHERE number = ?", number)
            cases += [row["case_id"]] if row else []
            db.execute(
                "UPDATE reviews SET status = 'forgotten', key = 'forgotten ' || number, case_id = 'forgotten', "
                "note = '', box = NULL, patient = NULL, picture = NULL, code = NULL, said = NULL WHERE number = ?",
                number,
            )
            db.execute("DELETE FROM samples WHERE id = ?", REVIEW_IDS + number)
        for number in found.cases:
            db.execute("DELETE FROM cases WHERE number = ?", number)
        for id_ in [*found.ids, *(REVIEW_IDS + number for number in found.reviews)]:
            db.execute(ADD_REMOVED, id_, time.time())
            db.execute("INSERT INTO forgotten VALUES (?, ?) ON CONFLICT DO NOTHING", id_, time.time())
            db.execute("UPDATE samples SET name = 'forgotten' WHERE id = ?", id_)
            db.execute("UPDATE arrivals SET picture = NULL WHERE number = ?", id_ - WATCH_IDS)
        for case in cases:
            for name in _spellings(db, "predictions", "what", case_name(case) or case):
                db.execute("DELETE FROM predictions WHERE what = ?", name)
        did = {"reviews": len(found.reviews), "cases": len(found.cases), "samples": len(found.ids)}
        audit_log.append(db, actor, "forget", did)
    return did


def unlearn_reviews(reviewing: Reviewing, found: Found) -> int:
    """Take up the last state that had not seen the reviews, learn the others again, and delete every state that had."""
    had, there = _states_with(reviewing.reviews, set(found.reviews)), reviewing.run.versions.there()
    steps = [row["step"] for row in reviewing.reviews.learned() if row["review"] in set(found.reviews)]
    if steps:
        reviewing.branch_before(min(steps), "reviews were forgotten")
    for version in had:
        reviewing.run.versions.drop(version)
    reviewing.learn_all()
    reviewing.renew_guard()
    reviewing.publish("reviews were forgotten", force=True)
    reviewing.run.save(reviewing.learner)
    current = reviewing.run.progress.step
    for step in checkpoints.steps(reviewing.run.path / "checkpoints"):
        if step != current:  # an older one may have learned them on a branch that was left
            checkpoints.drop(reviewing.run.path / "checkpoints", step)
    return len(set(had) & set(there))


def relearn_stream(run: Run, reviews: Reviews, show: Callable[[Moment], None] | None = None) -> None:
    """Learn the stream again from its beginning without what was removed, on a branch of its own."""
    with reviews.transaction() as db:
        new = int(db.value("SELECT MAX(branch) + 1 FROM branches"))
        db.execute("INSERT INTO branches VALUES (?, NULL, 0, 'samples were forgotten', ?)", new, time.time())
        db.execute("UPDATE versions SET status = 'retired' WHERE status IN ('in service', 'refused')")
        audit_log.append(db, "everlearn", "branch", {"branch": new, "of": None, "step": 0})
    for step in checkpoints.steps(run.path / "checkpoints"):
        checkpoints.drop(run.path / "checkpoints", step)
    for number in run.versions.there():
        run.versions.drop(number)
    run.adopt(Progress(branch=new), {})
    learn(run, show)


def _spellings(db: Database, table: str, column: str, case: str) -> list[str]:
    """How a table has a case's id: servers once took u01 for u1."""
    rows = db.rows(f"SELECT DISTINCT {column} AS id FROM {table} WHERE {column} LIKE ?", case[:1] + "%")
    return [row["id"] for row in rows if row["id"] == case or case_name(row["id"]) == case]


def _states_with(reviews: Reviews, numbers: set[int]) -> list[int]:
    """Versions whose line holds one of the reviews."""
    parents = {row["branch"]: (row["parent"], row["base_step"]) for row in reviews.rows("SELECT * FROM branches")}
    learned = [
        (row["branch"], row["step"]) for row in reviews.rows("SELECT * FROM learnings") if row["review"] in numbers
    ]
    found = []
    for version in reviews.versions():
        branch, upto, line = version["branch"], version["step"], {}
        while branch is not None:
            line[branch] = upto
            branch, base = parents[branch]
            upto = min(upto, base)
        if any(step <= line.get(branch, -1) for branch, step in learned):
            found.append(version["number"])
    return found
