"""Reviews: experts' verdicts, durable in the run's journal before they are acknowledged.

Any number of processes may add reviews; one, which holds the run's lock, learns them (`everlearn.runs.reviewing`).
"""

from __future__ import annotations

import json
import re
import time
import uuid
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import DataError, NotFoundError, TakenError
from everlearn.runs import audit_log
from everlearn.runs.database import Database, Row
from everlearn.runs.journal import ADD_CLASS
from everlearn.runs.review_tables import LINE, ON_LINE

Verdict = Literal["accept", "correct", "unsure"]
REVIEW_IDS = 1 << 40
"""Sample id of review n is ``REVIEW_IDS + n``; ids of streams stay below."""

CASE_ID = r"^(?:s0|[su][1-9][0-9]{0,11})$"
"""The one form of a case's id on the server: s and its place in the source, u and the number of what was sent."""

CHECK_EVERY = 5
"""Every so many confirmations one is not learned but kept to check new versions with."""


@dataclass(frozen=True)
class Review:
    """An expert's verdict on a prediction.

    Parameters
    ----------
    case_id : str
        The case that was looked at.
    verdict : {"accept", "correct", "unsure"}
        The prediction is right, it is another class, or nothing can be said.
    label : str or None
        Name of the true class, perhaps a new one; None if unsure.
    picture : array of uint8
        ``[C, H, W]``, as the model takes it.
    actor : str
        Who says so.
    said, version : int, optional
        The code that was predicted, and the version that did.
    note : str
        Free text, at most 4 000 characters.
    box : (x, y, width, height), optional
        Where it really is, in shares 0..1 of the picture.
    patient : str, optional
        Pseudonym that keeps a patient's cases together.
    key : str, optional
        Chosen by the sender, so that a verdict that is sent twice counts once.
    """

    case_id: str
    verdict: Verdict
    label: str | None
    picture: NDArray[np.uint8]
    actor: str = "local"
    said: int | None = None
    version: int | None = None
    note: str = ""
    box: tuple[float, float, float, float] | None = None
    patient: str | None = None
    key: str | None = None


class Reviews:
    """The reviews in a run's journal.

    Parameters
    ----------
    db : Database
        A connection to the journal; reviews can be added by any number of them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from everlearn.runs import Journal
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> reviews = Reviews(journal.db)
    >>> row = reviews.add(Review("a", "correct", "cat", np.zeros((1, 8, 8), np.uint8)))
    >>> row["number"], row["status"], [r["number"] for r in reviews.waiting(0)]
    (1, 'learn', [1])
    """

    def __init__(self, db: Database) -> None:
        self.db, self.rows, self.transaction = db, db.rows, db.transaction

    def add(self, review: Review) -> Row:
        """Enter a review; it is durable when this returns. The same key again gives the review that is there.

        Raises
        ------
        DataError
            If the review is out of bounds, or its key was given to one that says something else.
        """
        _check(review)
        with self.transaction() as db:
            known = db.row("SELECT * FROM reviews WHERE key = ?", review.key) if review.key is not None else None
            if known is not None:
                _check_same(db, known, review)
                return known
            code = None if review.label is None else _code(db, review.label)
            row = db.row(
                "INSERT INTO reviews (key, at, actor, case_id, verdict, code, said, version, note, box, patient, "
                "picture, shape, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                review.key or uuid.uuid4().hex,
                time.time(),
                review.actor,
                review.case_id,
                review.verdict,
                code,
                review.said,
                review.version,
                review.note,
                json.dumps(review.box) if review.box else None,
                review.patient,
                zlib.compress(review.picture.tobytes(), 1),
                json.dumps(review.picture.shape),
                self._destiny(db, review),
            )
            assert row is not None
            detail = {"review": row["number"], "verdict": review.verdict, "code": code, "version": review.version}
            audit_log.append(db, review.actor, "review", detail)
            return row

    def withdraw(self, number: int, actor: str) -> Row:
        """Take a review back; if it was learned, the writer goes back to before it and learns the others again."""
        with self.transaction() as db:
            row = db.row("SELECT * FROM reviews WHERE number = ?", number)
            if row is None or row["status"] == "forgotten":
                raise NotFoundError(f"there is no review {number}; expected the number of one")
            if row["status"] == "withdrawn":
                return row
            audit_log.append(db, actor, "undo", {"review": number})
            row = db.row("UPDATE reviews SET status = 'withdrawn' WHERE number = ? RETURNING *", number)
            assert row is not None
            return row

    def order(self, kind: str, detail: dict[str, Any], actor: str) -> int:
        """Ask the writer for something; returns the order's number."""
        with self.transaction() as db:
            number = db.value(
                "INSERT INTO orders (kind, detail, actor, at) VALUES (?, ?, ?, ?) RETURNING number",
                *(kind, json.dumps(detail), actor, time.time()),
            )
            audit_log.append(db, actor, kind, {"order": number} | detail)
            return int(number)

    def waiting(self, behind: int) -> list[Row]:
        """Reviews to learn, in order of arrival, with a number above ``behind``."""
        return self.rows("SELECT * FROM reviews WHERE status = 'learn' AND number > ? ORDER BY number LIMIT 64", behind)

    def get(self, number: int) -> Row | None:
        """One review, ``learned`` at which version or None."""
        found = self._list("WHERE r.number = ?", number)
        return found[0] if found else None

    def recent(self, case_id: str | None = None, before: int | None = None, limit: int = 100) -> list[Row]:
        """Reviews, newest first."""
        upto = before if before is not None else 1 << 62
        if case_id is not None:
            return self._list(
                "WHERE r.case_id = ? AND r.number < ? ORDER BY r.number DESC LIMIT ?", case_id, upto, limit
            )
        return self._list("WHERE r.number < ? ORDER BY r.number DESC LIMIT ?", upto, limit)

    def queue(self) -> int:
        """How many reviews wait to be learned."""
        return int(
            self.db.value(
                f"{LINE} SELECT COUNT(*) FROM reviews WHERE status = 'learn' AND number > "
                f"COALESCE((SELECT MAX(l.review) FROM {ON_LINE}), 0)"
            )
        )

    def learned(self) -> list[Row]:
        """Learnings on the line: branch, step, review."""
        return self.rows(f"{LINE} SELECT l.branch, l.step, l.review FROM {ON_LINE} ORDER BY l.step")

    def versions(self) -> list[Row]:
        """Versions, oldest first."""
        return self.rows("SELECT * FROM versions ORDER BY number")

    def in_service(self) -> Row | None:
        """The version that predicts."""
        return self.db.row("SELECT * FROM versions WHERE status = 'in service' ORDER BY number DESC LIMIT 1")

    def changes(self) -> int:
        """A number that grows with everything that is asked of the writer: entries of the audit log."""
        return int(self.db.value("SELECT COALESCE(MAX(number), 0) FROM audit"))

    def verify_audit(self) -> audit_log.Verified:
        """Check the audit log's chain."""
        return audit_log.verify(self.db)

    def _list(self, where: str, *values: Any) -> list[Row]:
        return self.rows(
            f"{LINE} SELECT r.*, c.name AS label, s.name AS said_label, "
            f"(SELECT l.step FROM {ON_LINE} WHERE l.review = r.number) AS step FROM reviews r "
            "LEFT JOIN classes c ON c.code = r.code LEFT JOIN classes s ON s.code = r.said " + where,
            *values,
        )

    @staticmethod
    def _destiny(db: Database, review: Review) -> str:
        """Whether a review is learned, or a confirmation kept for checking versions."""
        if review.verdict == "unsure":
            return "unsure"
        if review.verdict == "accept":
            before = int(db.value("SELECT COUNT(*) FROM reviews WHERE verdict = 'accept'"))
            if (before + 1) % CHECK_EVERY == 0:
                return "check"
        return "learn"


def case_name(id_: str) -> str | None:
    """A case's id in its one form, None if it is none; journals of old servers hold others.

    Examples
    --------
    >>> case_name("u1"), case_name("u01"), case_name("s00"), case_name("u"), case_name("sample 3")
    ('u1', 'u1', 's0', None, None)
    """
    found = re.fullmatch(r"([su])(\d{1,12})", id_)
    return f"{found[1]}{int(found[2])}" if found else None


def picture_of(row: Row) -> NDArray[np.uint8]:
    """The picture ``[C, H, W]`` of a review."""
    return np.frombuffer(zlib.decompress(row["picture"]), dtype=np.uint8).reshape(json.loads(row["shape"])).copy()


def _code(db: Database, label: str) -> int:
    db.execute(ADD_CLASS, label)
    return int(db.value("SELECT code FROM classes WHERE name = ?", label))


def _check_same(db: Database, known: Row, review: Review) -> None:
    """Refuse a key that stands for another review; what was forgotten says nothing any more."""
    same = known["case_id"] == review.case_id and known["verdict"] == review.verdict
    if same and review.verdict == "correct":
        same = db.value("SELECT name FROM classes WHERE code = ?", known["code"]) == review.label
    if not same and known["status"] != "forgotten":
        raise TakenError(
            f"the key {str(review.key)[:100]!r} is that of another review, number {known['number']}; expected the same "
            "verdict on the same case, or another key"
        )


def _check(review: Review) -> None:
    if (review.label is None) != (review.verdict == "unsure"):
        raise DataError(
            f"the verdict is {review.verdict!r} and the label {review.label!r}; unsure has none, others one"
        )
    if review.label is not None and not (0 < len(review.label) <= 100 and review.label.isprintable()):
        raise DataError(f"the label is {review.label[:120]!r}; expected 1 to 100 printable characters")
    if review.label is not None and review.label != review.label.strip():
        raise DataError(f"the label is {review.label!r}; expected no blanks around it")
    if len(review.note) > 4000:
        raise DataError(f"the note has {len(review.note)} characters; expected at most 4000")
    if "\0" in review.note + (review.key or ""):
        raise DataError("the note or the key holds a NUL character; expected text")
    if review.picture.dtype != np.uint8 or review.picture.ndim != 3:
        raise DataError(f"the picture is {review.picture.dtype} {review.picture.shape}; expected uint8 [C, H, W]")
    if review.box is not None:
        x, y, w, h = review.box
        if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 - x + 1e-6 and 0 < h <= 1 - y + 1e-6):
            raise DataError(
                f"the box is {review.box}; expected x, y, width, height in shares of the picture, inside it"
            )
