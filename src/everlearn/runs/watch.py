"""Learning files as they arrive in ``DIR/CLASS/``: each exactly once, whatever happens in between.

A file is ready when it has not changed for a while and can be read; one that cannot be read may still be being written
and is given more time. Ready files are entered in the journal, batch by batch, with their pictures, before they are
learned. Whoever goes on after an interruption learns the batches behind the last checkpoint again, from those pictures,
in the same order; so moving a file away, once it is entered, changes nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from everlearn.data import Batch, read_picture
from everlearn.data.decode import SUFFIXES
from everlearn.data.dicom import SUFFIXES as DICOM_SUFFIXES
from everlearn.data.naming import natural_key
from everlearn.errors import DataError, RunError
from everlearn.runs import checkpoints
from everlearn.runs.database import Row
from everlearn.runs.journal import LEARNED
from everlearn.runs.session import Session

WATCH_IDS = 1 << 39
"""Ids of watched samples: this plus the arrival's number; below those of reviews."""

_PICTURES = SUFFIXES + DICOM_SUFFIXES


@dataclass(frozen=True)
class Patience:
    """Seconds: between looks at the folder, that a file must lie unchanged, that an unreadable one is given, and that
    a batch waits to be full.
    """

    poll: float = 0.5
    settle: float = 1.0
    unreadable: float = 30.0
    full: float = 2.0


class Watch:
    """Learns what arrives in a folder, as one part of a run.

    Parameters
    ----------
    session : Session
        Of the run; its learner is in the state of the run's progress.
    folder : Path
        With a folder for each class, now or later.
    part : int
        Which of the run's sources the folder is.
    patience : Patience, optional
    """

    def __init__(self, session: Session, folder: Path, part: int, patience: Patience | None = None) -> None:
        self.session, self.folder, self.part = session, folder, part
        self.patience = patience or Patience()
        self.journal, self.progress = session.run.journal, session.run.progress
        self.known = self.journal.arrived(str(folder))
        self.since: dict[str, tuple[tuple[int, int], float]] = {}  # waiting files: their size and time, seen since when
        self.saved = self.progress.step
        self.forgotten = set(self.journal.forgotten())

    def replay(self) -> None:
        """Learn what had arrived behind the last checkpoint."""
        for rows in self.journal.arrivals(self.part, self.progress.position):
            self._learn(rows)
        self.session.read_off()

    def work(self) -> None:
        """Learn until SIGINT or SIGTERM, which ends in a checkpoint and then in `KeyboardInterrupt`."""
        with _asked_to_stop() as stop:
            self.replay()
            while not stop.is_set():
                ready = self._ready()
                full = len(ready) >= self._batch()
                if ready and (full or self._waited(ready) > self.patience.full):
                    rows = self._enter(ready[: self._batch()])
                    self._learn(rows)
                    continue
                if self.progress.step > self.saved:
                    self._save()
                stop.wait(self.patience.poll)
            self._save()
        raise KeyboardInterrupt

    def _batch(self) -> int:
        return self.session.run.config.parts[self.part].stream.batch

    def _ready(self) -> list[tuple[str, np.ndarray | str]]:
        """Settled new files, oldest first, as many as a batch holds, each with its picture or what is wrong with it."""
        now, found, ready = time.time(), {}, []
        for path in self._files():
            with suppress(OSError):  # it may go away at any moment
                stat = (self.folder / path).stat()
                found[path] = (stat.st_size, stat.st_mtime_ns)
        self.since = {
            path: self.since[path] if path in self.since and self.since[path][0] == mark else (mark, now)
            for path, mark in found.items()
        }
        for path in sorted(self.since, key=lambda path: (found[path][1], natural_key(path))):
            quiet = now - self.since[path][1]
            if quiet < self.patience.settle:
                continue
            picture = self._read(path)
            named = shown(path) == path
            if isinstance(picture, np.ndarray) or not named or quiet >= self.patience.unreadable:
                ready.append((path, picture))
            if len(ready) == self._batch():
                break
        return ready

    def _files(self) -> Iterator[str]:
        with suppress(OSError):
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                    for file in entry.iterdir():
                        path = f"{entry.name}/{file.name}"
                        hidden = file.name.startswith(".") or file.is_symlink()
                        if not hidden and shown(path) not in self.known and path.lower().endswith(_PICTURES):
                            yield path

    def _read(self, path: str) -> np.ndarray | str:
        if shown(path) != path:
            return f"{shown(path)}: a name that is not UTF-8; rename it, and it is learned then"
        channels, size, _ = self.session.shape
        try:
            return read_picture(self.folder / path, channels, size)
        except DataError as error:
            return str(error)

    def _waited(self, ready: list[tuple[str, np.ndarray | str]]) -> float:
        return time.time() - min(self.since[path][1] for path, _ in ready) - self.patience.settle

    def _enter(self, ready: list[tuple[str, np.ndarray | str]]) -> list[Row]:
        """Write a batch down, durably, before anything of it is learned."""
        rows = self.journal.arrive(self.part, str(self.folder), [(shown(path), found) for path, found in ready])
        for path, _ in ready:
            self.known.add(shown(path))
            self.since.pop(path, None)
        return rows

    def _learn(self, rows: list[Row]) -> None:
        session, progress = self.session, self.progress
        names = {WATCH_IDS + row["number"]: row["path"] for row in rows}
        end = progress.position + len(rows)
        pictures, good = [], []
        for row in rows:
            picture = self._picture(row)
            if isinstance(picture, str):
                self.journal.quarantine(progress.step + 1, WATCH_IDS + row["number"], row["path"], picture)
                progress.quarantined += 1
                session.show(session.moment(progress.step, end, end, told=(f"put aside: {picture}",)))
            elif picture is not None:
                pictures.append(picture)
                good.append(row)
        if good:
            ids = torch.tensor([WATCH_IDS + row["number"] for row in good])
            labels = torch.tensor([row["code"] for row in good])
            batch = Batch(torch.from_numpy(np.stack(pictures)), labels, ids, None, end)
            session.step(batch, names.__getitem__, end)
        progress.position = end
        if progress.step - self.saved >= session.run.config.checkpoint_every:
            self._save()

    def _picture(self, row: Row) -> np.ndarray | str | None:
        """The picture of an arrival, what is wrong with it, or None for one that must be forgotten."""
        if WATCH_IDS + row["number"] in self.forgotten:
            return None
        if row["picture"] is not None:
            return np.frombuffer(row["picture"], np.uint8).reshape(self.session.shape)
        if row["reason"] != LEARNED:
            return str(row["reason"])
        return self._read(row["path"])  # from the beginning again, as after forgetting: it was learned long ago

    def _save(self) -> None:
        """A checkpoint; pictures that the oldest one kept has learned are not needed any more."""
        self.session.save()
        self.saved = self.progress.step
        folder = self.session.run.path / "checkpoints"
        oldest, *newer = checkpoints.steps(folder)
        with suppress(RunError):  # of a damaged one nobody knows what it has learned
            known = checkpoints.progress_of(folder, oldest)
            if newer and known.part == self.part:
                self.journal.forget_pictures(self.part, known.position)


def shown(path: str) -> str:
    """A file's name as the journal has it: bytes that are no UTF-8 are spelled out.

    Examples
    --------
    >>> shown(b"cat/caf\\xe9.png".decode(errors="surrogateescape"))
    'cat/caf\\\\xe9.png'
    """
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never cut in two; a second SIGINT does not wait."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
