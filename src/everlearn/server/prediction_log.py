"""The log of predictions, in the journal."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from everlearn.errors import RunError
from everlearn.runs.database import Database

_ADD = "INSERT INTO predictions (at, actor, what, version, label, probability) VALUES (?, ?, ?, ?, ?, ?)"


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

    def __init__(self, db: Database) -> None:
        self._queue: queue.Queue[_Entry | None] = queue.Queue(maxsize=10_000)
        self._db = db
        self.count = int(db.value("SELECT COUNT(*) FROM predictions"))
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
            with suppress(RunError):  # a full disk must not stop predictions
                self._db.execute_many(_ADD, rows)
                self._db.commit()
