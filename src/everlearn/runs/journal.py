"""The journal: what happened in a run, in SQLite's write-ahead log or in PostgreSQL (`everlearn.runs.database`).

Rows are numbered by the learner's step. A run that resumes from a checkpoint cuts off what lies behind it and learns it
again, so every sample counts once.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from everlearn.data.naming import writable
from everlearn.errors import RunError
from everlearn.runs.database import Row, open_database
from everlearn.runs.review_tables import LAYOUT, LINE, REVIEW_TABLES

_TABLES = """
CREATE TABLE IF NOT EXISTS sources
  (number INTEGER PRIMARY KEY, spec TEXT NOT NULL, first_id INTEGER NOT NULL, samples INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS contents (first_id INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS classes (code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS samples
  (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, code INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps
  (step INTEGER PRIMARY KEY, task INTEGER, samples INTEGER NOT NULL, loss REAL NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS quarantine
  (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations
  (number INTEGER PRIMARY KEY, step INTEGER NOT NULL, accuracies TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS looks
  (step INTEGER PRIMARY KEY, samples INTEGER NOT NULL, correct INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS arrivals
  (number INTEGER PRIMARY KEY, part INTEGER NOT NULL, batch INTEGER NOT NULL, folder TEXT NOT NULL, path TEXT NOT NULL,
   code INTEGER NOT NULL, picture BLOB, reason TEXT, UNIQUE (folder, path));
CREATE TABLE IF NOT EXISTS events
  (number INTEGER PRIMARY KEY, step INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL, at REAL NOT NULL);
"""

TABLES = re.findall(r"TABLE IF NOT EXISTS (\w+)", _TABLES + REVIEW_TABLES)

LEARNED = "learned"
"""Why an arrival has no picture any more."""

_FIRST_ID = "SELECT first_id FROM sources WHERE spec = ? AND samples = ? ORDER BY number DESC LIMIT 1"

ADD_CLASS = (
    "INSERT INTO classes (code, name) SELECT COALESCE(MAX(code) + 1, 0), ? FROM classes WHERE true "
    "ON CONFLICT DO NOTHING"
)
ADD_EVENT = "INSERT INTO events (step, kind, detail, at) VALUES (?, ?, ?, ?)"


def replacing(table: str, key: str, *columns: str) -> str:
    """A query that enters a row, in the place of one with the same key.

    Examples
    --------
    >>> replacing("looks", "step", "correct")
    'INSERT INTO looks (step, correct) VALUES (?, ?) ON CONFLICT (step) DO UPDATE SET correct = excluded.correct'
    """
    names, marks = ", ".join((key, *columns)), ", ".join("?" * (1 + len(columns)))
    change = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {change}"


ADD_STEP = replacing("steps", "step", "task", "samples", "loss", "at")
ADD_SAMPLE = replacing("samples", "id", "step", "code", "name")


class Journal:
    """One run's journal.

    Examples
    --------
    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> journal.event(3, "task", {"number": 0})
    >>> journal.commit()
    >>> [(row["step"], row["kind"]) for row in journal.events()]
    [(3, 'task')]
    """

    def __init__(self, place: Path | str) -> None:
        self.db = open_database(place)
        try:
            self.db.define(_TABLES + REVIEW_TABLES, LAYOUT)
        except BaseException:
            self.db.close()
            raise

    def source(self, spec: str, samples: int, class_names: tuple[str, ...]) -> tuple[int, list[int]]:
        """Enter a source, once; gives its samples' first id and a code for each of its classes."""
        first = self.db.value(_FIRST_ID, spec, samples)
        if first is None:
            first = self._new_source(spec, samples)
        known = set(self.class_names().values())
        for name in class_names:
            if name not in known:
                self.db.execute(ADD_CLASS, name)
        codes = {name: code for code, name in self.class_names().items()}
        return first, [codes[name] for name in class_names]

    def _new_source(self, spec: str, samples: int) -> int:
        first: int = self.db.value("SELECT COALESCE(MAX(first_id + samples), 0) FROM sources")
        self.db.execute("INSERT INTO sources (spec, first_id, samples) VALUES (?, ?, ?)", spec, first, samples)
        return first

    def contents(self, spec: str) -> tuple[int, int, bytes | None] | None:
        """A source as it was last begun: first id, number of samples, their hashes (`runs.contents`) if kept."""
        row = self.db.row(
            "SELECT s.first_id, s.samples, c.hashes FROM sources s LEFT JOIN contents c ON c.first_id = s.first_id "
            "WHERE s.spec = ? ORDER BY c.hashes IS NULL, s.number DESC LIMIT 1",
            spec,
        )
        if row is None:
            return None
        return row["first_id"], row["samples"], None if row["hashes"] is None else bytes(row["hashes"])

    def keep_contents(self, spec: str, samples: int, hashes: bytes, first_id: int | None = None) -> int:
        """Keep the hashes of a source's samples: of one entered already, or of a new one. Gives its first id."""
        if first_id is None:
            first_id = self._new_source(spec, samples)
        self.db.execute(replacing("contents", "first_id", "hashes"), first_id, hashes)
        return first_id

    def class_names(self) -> dict[int, str]:
        """Name of each label code."""
        return {row["code"]: row["name"] for row in self.db.rows("SELECT code, name FROM classes ORDER BY code")}

    def step(self, step: int, task: int | None, loss: float, samples: list[tuple[int, int, str]]) -> None:
        """Enter one step and its samples (id, code, name)."""
        self.db.execute(ADD_STEP, step, task, len(samples), loss, time.time())
        self.db.execute_many(ADD_SAMPLE, [(id_, step, code, writable(name)) for id_, code, name in samples])

    def quarantine(self, step: int, id_: int, name: str, reason: str) -> None:
        """Enter a sample that could not be read."""
        self.db.execute(
            replacing("quarantine", "id", "step", "name", "reason"), id_, step, writable(name), writable(reason)
        )

    def evaluation(self, number: int, step: int, accuracies: list[float | None]) -> None:
        """Enter a row of the accuracy matrix."""
        query = replacing("evaluations", "number", "step", "accuracies", "at")
        self.db.execute(query, number, step, json.dumps(accuracies), time.time())

    def event(self, step: int, kind: str, detail: dict[str, Any]) -> None:
        """Enter anything else worth knowing later."""
        self.db.execute(ADD_EVENT, step, kind, json.dumps(detail), time.time())

    def look(self, step: int, samples: int, right: int) -> None:
        """Enter how many samples of known classes a step had, and how many were right before they were learned."""
        self.db.execute(replacing("looks", "step", "samples", "correct"), step, samples, right)

    def looks(self) -> list[Row]:
        """Predictions before learning, by step: step, samples, correct."""
        return self.db.rows("SELECT * FROM looks ORDER BY step")

    def arrived(self, folder: str) -> set[str]:
        """Files of a watched folder that have been entered, relative to it."""
        return {row["path"] for row in self.db.rows("SELECT path FROM arrivals WHERE folder = ?", folder)}

    def arrive(self, part: int, folder: str, files: list[tuple[str, Any]]) -> list[Row]:
        """Enter files ``CLASS/NAME`` that have arrived, each with its picture (an array) or what is wrong with it.

        They are one batch, and durable when this returns. Gives the rows.
        """
        batch = self.db.value("SELECT COALESCE(MAX(batch), 0) + 1 FROM arrivals")
        for path, found in files:
            name = path.split("/")[0]
            bad = isinstance(found, str)
            if not bad:
                self.db.execute(ADD_CLASS, name)
            self.db.execute(
                "INSERT INTO arrivals (part, batch, folder, path, code, picture, reason) VALUES "
                "(?, ?, ?, ?, COALESCE((SELECT code FROM classes WHERE name = ?), -1), ?, ?)",
                *(part, batch, folder, path, name, None if bad else found.tobytes(), found if bad else None),
            )
        self.db.commit()
        return self.db.rows("SELECT * FROM arrivals WHERE batch = ? ORDER BY number", batch)

    def arrivals(self, part: int, position: int) -> list[list[Row]]:
        """Batches of files that arrived for a part, from a position on."""
        rows = self.db.rows("SELECT * FROM arrivals WHERE part = ? ORDER BY number", part)[position:]
        numbers = sorted({row["batch"] for row in rows})
        return [[row for row in rows if row["batch"] == number] for number in numbers]

    def forget_pictures(self, part: int, position: int) -> None:
        """Drop the pictures of arrivals before a position; a checkpoint that is never gone behind has learned them."""
        self.db.execute(
            "UPDATE arrivals SET picture = NULL, reason = COALESCE(reason, ?) WHERE number IN "
            "(SELECT number FROM arrivals WHERE part = ? ORDER BY number LIMIT ?)",
            *(LEARNED, part, position),
        )

    def alarms(self) -> list[Row]:
        """New classes and drift, in order: events with step, kind and detail (JSON)."""
        return self.db.rows("SELECT * FROM events WHERE kind IN ('new class', 'drift') ORDER BY number")

    def rewind(self, step: int) -> None:
        """Forget what was learned behind a step; events stay, but for alarms, which learning again raises again."""
        for table in ("steps", "samples", "quarantine", "evaluations", "looks"):
            self.db.execute(f"DELETE FROM {table} WHERE step > ?", step)
        self.db.execute("DELETE FROM events WHERE step > ? AND kind IN ('new class', 'drift')", step)
        self.db.execute("DELETE FROM learnings WHERE branch = (SELECT MAX(branch) FROM branches) AND step > ?", step)
        self.db.commit()

    def forgotten(self) -> list[int]:
        """Ids of samples that must never be learned again."""
        return [row["id"] for row in self.db.rows("SELECT id FROM forgotten ORDER BY id")]

    def forget(self, id_: int, at: float) -> None:
        """Enter a sample that must never be learned again."""
        self.db.execute("INSERT INTO forgotten VALUES (?, ?) ON CONFLICT DO NOTHING", id_, at)

    def on_line(self, branch: int, step: int) -> bool:
        """Whether a state of a branch belongs to what counts now; after an undo or roll-back others do not."""
        return bool(self.db.rows(LINE + "SELECT 1 FROM line WHERE branch = ? AND upto >= ?", branch, step))

    def commit(self) -> None:
        """Make everything entered so far durable."""
        self.db.commit()

    def close(self) -> None:
        """Commit and close."""
        self.db.close()

    def events(self, kind: str | None = None) -> list[Row]:
        """Events in order, of one kind or all."""
        if kind is None:
            return self.db.rows("SELECT * FROM events ORDER BY number")
        return self.db.rows("SELECT * FROM events WHERE kind = ? ORDER BY number", kind)

    def steps(self) -> list[Row]:
        """Steps in order: step, task, samples, loss, at (seconds since 1970)."""
        return self.db.rows("SELECT * FROM steps ORDER BY step")

    def quarantined(self) -> list[Row]:
        """Samples put aside: id, step, name, reason."""
        return self.db.rows("SELECT * FROM quarantine ORDER BY id")

    def sample(self, id_: int) -> Row | None:
        """One learned sample: id, step, code, name."""
        return self.db.row("SELECT * FROM samples WHERE id = ?", id_)


_NOT_ALIKE = "{} is not here what rank 0 sees; give all processes the same files"


class Follower(Journal):
    """A run's journal as those processes have it that learn along with the one that writes: read, never written."""

    def source(self, spec: str, samples: int, class_names: tuple[str, ...]) -> tuple[int, list[int]]:
        """What the writing process has entered."""
        first = self.db.value(_FIRST_ID, spec, samples)
        codes = {name: code for code, name in self.class_names().items()}
        if first is None or not set(class_names) <= codes.keys():
            raise RunError(_NOT_ALIKE.format(spec))
        return first, [codes[name] for name in class_names]

    def keep_contents(self, spec: str, samples: int, hashes: bytes, first_id: int | None = None) -> int:
        """What would be kept has been, by the writing process: here the source holds something else."""
        raise RunError(_NOT_ALIKE.format(spec))

    def step(self, step: int, task: int | None, loss: float, samples: list[tuple[int, int, str]]) -> None:
        """Nothing."""

    def quarantine(self, step: int, id_: int, name: str, reason: str) -> None:
        """Nothing."""

    def evaluation(self, number: int, step: int, accuracies: list[float | None]) -> None:
        """Nothing."""

    def event(self, step: int, kind: str, detail: dict[str, Any]) -> None:
        """Nothing."""

    def look(self, step: int, samples: int, right: int) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""
