"""The desk: everything the API and the pages work with, put together once for a server."""

from __future__ import annotations

import json
import queue
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everlearn.errors import DataError
from everlearn.metrics.continual import forgetting
from everlearn.runs import Run
from everlearn.runs.reviews import Review, Reviews
from everlearn.server.cases import Cases
from everlearn.server.schemas import ReviewGiven
from everlearn.server.security import Actor, Gate
from everlearn.server.served import Service
from everlearn.server.settings import Settings
from everlearn.server.worklist import Worklist
from everlearn.server.writer import Writer


class Desk:
    """A server's parts. `open` starts them, `close` ends them."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)  # predictions run side by side, and the writer has the other core
        sys.setswitchinterval(0.001)  # a prediction gets the interpreter back from work behind the scenes sooner
        self.settings = settings
        self.gate = Gate(settings)
        self.writer = Writer(settings.run, settings.margin) if settings.learns else None
        try:
            with Run.open(settings.run) as run:
                self.reviews = Reviews(run.journal.file)
                self.service = Service(settings.run, run.config, self.reviews)
                self.cases = Cases(run, self.reviews, settings.cases, settings.limit, self.gate.secret)
                self.name, self.matrix = run.path.absolute().name, run.progress.matrix
                self.method = run.config.learner.method
        except BaseException:
            if self.writer is not None:
                self.writer.stop()
            raise
        self.worklist = Worklist(self.cases, self.service, self.reviews)
        self.log = PredictionLog(settings.run / "predictions.sqlite")

    def review(self, given: ReviewGiven, actor: Actor) -> sqlite3.Row:
        """Enter a verdict; durable when this returns."""
        case = self.cases.get(given.case_id)
        score = None if given.said is not None else self.worklist.score(case)
        said = given.said if score is None else score.label
        label = {"accept": said, "correct": given.label, "unsure": None}[given.verdict]
        if given.verdict == "correct" and label is None:
            raise DataError("the verdict is 'correct' without a label; expected the true class")
        codes = {name: code for code, name in self.service.current.names.items()}
        if said is not None and said not in codes:
            raise DataError(f"the class said is {said!r}; expected one that the model knows")
        box = given.box
        row = self.reviews.add(
            Review(
                case.id,
                given.verdict,
                label,
                self.cases.picture(case.id).numpy(),
                actor=actor.name,
                said=codes[said] if said is not None else None,
                version=given.version or (score.version if score else None),
                note=given.note,
                box=(box.x, box.y, box.width, box.height) if box else None,
                patient=case.patient,
                key=given.key,
            )
        )
        if self.writer is not None:
            self.writer.wake()
        return row

    def withdraw(self, number: int, actor: Actor) -> None:
        """Take a verdict back."""
        self.reviews.withdraw(number, actor.name)
        if self.writer is not None:
            self.writer.wake()

    def order(self, kind: str, detail: dict[str, Any], actor: Actor) -> int:
        """Ask the writer for something."""
        number = self.reviews.order(kind, detail, actor.name)
        if self.writer is not None:
            self.writer.wake()
        return number

    def alarms(self) -> list[str]:
        """What somebody ought to look at."""
        found = []
        if self.writer is not None and self.writer.fault:
            found.append(f"learning stands still: {self.writer.fault}")
        if self.service.fault:
            found.append(f"the newest version cannot be loaded: {self.service.fault}")
        versions = self.reviews.versions()
        if versions and versions[-1]["status"] == "refused":
            found.append(f"version {versions[-1]['number']} was not put in service: {versions[-1]['reason']}")
        if self.worklist.unreadable:
            first = next(iter(self.worklist.unreadable.values()))
            found.append(f"{len(self.worklist.unreadable)} cases cannot be read; the first: {first}")
        warnings = self.reviews.rows("SELECT detail FROM events WHERE kind = 'warning' ORDER BY number DESC LIMIT 3")
        return found + [json.loads(row["detail"])["text"] for row in warnings]

    def forgetting(self) -> float | None:
        """Mean over classes of the best accuracy any version had on the cases kept for checking, less today's."""
        found = self.forgettings()
        if not found:
            return forgetting(self.matrix) if self.matrix else None
        return found[-1][1]

    def forgettings(self) -> list[tuple[int, float, str]]:
        """Number, forgetting and status of every version that is or was in service: what its classes lost, on average,
        against the best that a version until then had."""
        best: dict[str, float] = {}
        found = []
        for v in self.reviews.versions():
            now = json.loads(v["by_class"])
            if v["status"] == "refused" or not now:
                continue
            best |= {name: max(share, best.get(name, 0.0)) for name, share in now.items()}
            found.append((v["number"], sum(best[name] - now[name] for name in now) / len(now), v["status"]))
        return found

    def percentile(self, share: float) -> float | None:
        """Of the last predictions' times, in milliseconds."""
        seconds = sorted(self.service.seconds)
        return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3) if seconds else None

    def close(self) -> None:
        """End everything; what was acknowledged is in the journal."""
        self.worklist.stop()
        self.service.stop()
        if self.writer is not None:
            self.writer.stop()
        self.log.close()
        self.reviews.close()


@dataclass(frozen=True)
class _Entry:
    at: float
    actor: str
    what: str
    version: int
    label: str
    probability: float


class PredictionLog:
    """Which version said what of which case, written behind the scenes: a crash may lose its last second."""

    def __init__(self, file: Path) -> None:
        self._queue: queue.Queue[_Entry | None] = queue.Queue(maxsize=10_000)
        self._db = sqlite3.connect(file, timeout=10, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; "
            "CREATE TABLE IF NOT EXISTS predictions (number INTEGER PRIMARY KEY, at REAL, actor TEXT, what TEXT, "
            "version INTEGER, label TEXT, probability REAL)"
        )
        self.count = int(self._db.execute("SELECT COUNT(*) FROM predictions").fetchone()[0])
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, actor: str, what: str, version: int, label: str, probability: float) -> None:
        """Note one prediction."""
        self.count += 1
        with suppress(queue.Full):
            self._queue.put_nowait(_Entry(time.time(), actor, what, version, label, probability))

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join(timeout=10)
        self._db.close()

    def _write(self) -> None:
        over = False
        while not over:
            entries = [self._queue.get()]
            time.sleep(0.2)
            while not self._queue.empty():
                entries.append(self._queue.get())
            over = None in entries
            rows = [(e.at, e.actor, e.what, e.version, e.label, e.probability) for e in entries if e is not None]
            with suppress(sqlite3.Error):  # a full disk must not stop predictions
                self._db.executemany(
                    "INSERT INTO predictions (at, actor, what, version, label, probability) VALUES (?, ?, ?, ?, ?, ?)",
                    rows,
                )
                self._db.commit()
