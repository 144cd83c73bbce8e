"""A run: a directory with everything of a learner's life.

``config.toml``, ``journal.sqlite``, ``checkpoints/``, ``report.html``. One process at a time may write to it. Where the
configuration names a database, the journal is there, and machines with a directory each may share the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from everlearn.data import Stream
from everlearn.errors import EverlearnError, RunError
from everlearn.learners import Learner, collect, deal
from everlearn.runs import checkpoints
from everlearn.runs.build import build_learner, build_streams, take_rate
from everlearn.runs.checkpoints import Progress
from everlearn.runs.config import Config, Continuation, of_another_kind
from everlearn.runs.intact import check_files, check_state
from everlearn.runs.journal import Follower, Journal, replacing
from everlearn.runs.lock import check_directory, locked
from everlearn.runs.versions import Versions

SHARE = replacing("shared", "name", "content")
"""Enters a name and bytes that servers on other machines need to join in."""


class Run:
    """An open run directory. Use as a context manager, or call `close`.

    Attributes
    ----------
    path : Path
    config : Config
    journal : Journal
    progress : Progress
        As of the checkpoint that was read, then as the run goes on.
    versions : Versions
    warnings : list of str
        What was found wrong on opening, such as a damaged checkpoint that was passed over.
    """

    def __init__(self, path: Path, config: Config, lock: FileLock | None, journal: type[Journal] = Journal) -> None:
        self.path = path
        self.config = config
        self._lock = lock
        self.journal = journal(config.database or path / "journal.sqlite")
        try:
            if lock is not None:
                self.journal.db.lock()
            self.versions = Versions(path, config.store)
            self.progress, self._tensors, self.warnings = checkpoints.load_last(
                path / "checkpoints", self.journal.on_line
            )
            if config.store or (self.warnings and not self._tensors):
                self._catch_up()
            check_state(path, self._tensors, self.warnings, self.journal)
            self.warnings = [f"{text}; step {self.progress.step} is taken instead" for text in self.warnings]
        except BaseException:
            self.journal.close()
            raise

    def _catch_up(self) -> None:
        """Take the newest version, where another machine has learned on from our last checkpoint, or none is whole."""
        there = set(self.versions.there())
        for row in self.journal.db.rows("SELECT number, branch, step FROM versions ORDER BY step DESC, number DESC"):
            if row["step"] <= self.progress.step and self._tensors:
                return
            if row["number"] in there and self.journal.on_line(row["branch"], row["step"]):
                try:
                    self.adopt(*self.versions.load(row["number"]))
                    return
                except RunError as error:
                    self.warnings.append(str(error))

    def adopt(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Take up another state than the last checkpoint's."""
        self.progress, self._tensors = progress, tensors

    @staticmethod
    def check_new(path: Path) -> None:
        """Refuse a path at which no new run can be made."""
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; a run needs a directory")
        if (path / "config.toml").exists():
            raise RunError(f"{path} holds a run already; go on with --resume, or choose another directory")
        if another := of_another_kind(path):
            raise RunError(f"{another}; a new run needs another directory")
        for name in ("journal.sqlite", "checkpoints"):
            if (path / name).exists():
                raise RunError(
                    f"{path} has {name} of a run, but no config.toml; put that back from a copy, or choose another "
                    "directory for a new run"
                )

    @classmethod
    def create(cls, path: Path, config: Config) -> Run:
        """Make a new run; the directory must not hold one already."""
        cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run's directory {path}: {error.strerror}") from error
        lock = locked(path)
        try:
            write_config(path, config)
            return cls(path, config, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Run:
        """Open a run that is there, to read it or, with the lock, to go on with it."""
        check_directory(path)
        config = Config.load(path / "config.toml")
        check_files(path, config)
        lock = locked(path) if write else None
        try:
            return cls(path, config, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def follow(cls, path: Path) -> Run:
        """Open a run that another process writes, to learn along with it."""
        return cls(path, Config.load(path / "config.toml"), None, Follower)

    def learner(self) -> Learner:
        """The run's learner in the state of the last checkpoint."""
        return self.restore(build_learner(self.config, self.shape, empty=True))

    def restore(self, learner: Learner) -> Learner:
        """Bring a learner built from the run's configuration into the state of the checkpoint, where there is one."""
        if self._tensors:
            try:
                learner.load_state_dict(deal(self._tensors, learner))
            except (EverlearnError, RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
                settings, first = self.config.learner, (str(error) or type(error).__name__).splitlines()[0]
                raise RunError(
                    f"the state of {self.path} does not fit its config.toml (method {settings.method}, backbone "
                    f"{settings.backbone}, memory {settings.memory}): {first}; put back what config.toml said when "
                    "the run began"
                ) from error
        take_rate(self.config, learner)
        return learner

    def number(self, stream: Stream, part: int = 0) -> Stream:
        """Give a stream's samples and classes the numbers they have in this run."""
        source, spec = stream.source, self.config.parts[part].data.source
        first_id, codes = self.journal.source(spec, len(source), source.class_names)
        return replace(stream, codes=np.array(codes, dtype=np.int64), first_id=first_id)

    def streams(self) -> list[Stream]:
        """The streams of the sources begun so far, numbered, in the order of learning; watched folders have none."""
        begun = self.number_all(build_streams(self.config, self.shape))[: self.progress.part + 1]
        return [stream for stream in begun if stream is not None]

    def number_all(self, streams: Sequence[Stream | None]) -> list[Stream | None]:
        """Give samples, classes and tasks of all streams the numbers they have in this run."""
        numbered: list[Stream | None] = []
        tasks = 0
        for part, stream in enumerate(streams):
            numbered.append(None if stream is None else replace(self.number(stream, part), first_task=tasks))
            tasks += len(stream.tasks) if stream else 0
        return numbered

    def extend(self, *more: Continuation) -> None:
        """Go on with further sources: kept in the configuration before anything of them is learned."""
        self.change(more=[*self.config.more, *more])

    def change(self, **settings: Any) -> None:
        """Change the configuration, here and where other machines look for it."""
        self.config = self.config.model_copy(update=settings)
        if self.config.database:
            with self.journal.db.transaction() as db:
                db.execute(SHARE, "config", self.config.dump().encode())
        write_config(self.path, self.config)

    @property
    def finished(self) -> bool:
        """Whether all sources have been learned to their end."""
        return self.progress.finished and self.progress.part + 1 == len(self.config.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the run's pictures."""
        if self._tensors and "memory.inputs" not in self._tensors:
            raise RunError(f"{self.path} has learned no sample, so it knows nothing; learn a source that can be read")
        if not self._tensors:
            raise RunError(
                f"{self.path} has no checkpoint yet; let it learn first (everlearn learn --resume {self.path})"
            )
        return tuple(self._tensors["memory.inputs"].shape[1:])  # type: ignore[return-value]

    @property
    def memory_bytes(self) -> int:
        """Bytes of what a method keeps beside model and optimiser, as of the last checkpoint.

        That is what is remembered, the method's own state (logits, scores, sums, an old model) and what follows the
        model (teacher, average).
        """
        model = ("model.", "optimizer.", "learner.")
        held = [tensor for name, tensor in self._tensors.items() if not name.startswith(model)]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def save(self, learner: Learner) -> Path:
        """Make the journal durable, then write a checkpoint; of several processes all call it and the first writes."""
        self.journal.commit()
        tensors = collect(learner)
        if tensors is None:
            return self.path / "checkpoints"
        self._tensors = tensors
        return checkpoints.save(self.path / "checkpoints", self.progress, self._tensors)

    def close(self) -> None:
        """Close the journal and let others in."""
        try:
            self.journal.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_config(path: Path, config: Config) -> None:
    """Write ``config.toml`` into a directory, whole or not at all."""
    beside = path / ".config.toml"
    try:
        beside.write_text(config.dump(), encoding="utf-8")
        beside.replace(path / "config.toml")
    except OSError as error:
        raise RunError(f"cannot write {path / 'config.toml'}: {error.strerror}") from error
