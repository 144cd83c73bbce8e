"""A run: a directory with everything of a learner's life.

``config.toml``, ``journal.sqlite``, ``checkpoints/``, ``report.html``. One process at a time may write to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout

from everlearn.data import Stream
from everlearn.errors import RunError
from everlearn.learners import Learner, collect, deal
from everlearn.runs import checkpoints
from everlearn.runs.build import build_learner, build_streams
from everlearn.runs.config import Config, Continuation
from everlearn.runs.journal import Follower, Journal


class Run:
    """An open run directory. Use as a context manager, or call `close`.

    Attributes
    ----------
    path : Path
    config : Config
    journal : Journal
    progress : Progress
        As of the checkpoint that was read, then as the run goes on.
    warnings : list of str
        What was found wrong on opening, such as a damaged checkpoint that was passed over.
    """

    def __init__(self, path: Path, config: Config, lock: FileLock | None, journal: type[Journal] = Journal) -> None:
        self.path = path
        self.config = config
        self._lock = lock
        self.journal = journal(path / "journal.sqlite")
        self.progress, self._tensors, self.warnings = checkpoints.load_last(path / "checkpoints", self.journal.on_line)

    @staticmethod
    def check_new(path: Path) -> None:
        """Refuse a path at which no new run can be made."""
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; a run needs a directory")
        if (path / "config.toml").exists():
            raise RunError(f"{path} holds a run already; go on with --resume, or choose another directory")

    @classmethod
    def create(cls, path: Path, config: Config) -> Run:
        """Make a new run; the directory must not hold one already."""
        cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run's directory {path}: {error.strerror}") from error
        lock = _lock(path)
        try:
            beside = path / ".config.toml"
            beside.write_text(config.dump(), encoding="utf-8")
            beside.rename(path / "config.toml")
        except OSError as error:
            lock.release()
            raise RunError(f"cannot write {path / 'config.toml'}: {error.strerror}") from error
        return cls(path, config, lock)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Run:
        """Open a run that is there, to read it or, with the lock, to go on with it."""
        if not path.is_dir():
            raise RunError(f"{path} is not a run: {'it is a file' if path.exists() else 'there is no such directory'}")
        config = Config.load(path / "config.toml")
        return cls(path, config, _lock(path) if write else None)

    @classmethod
    def follow(cls, path: Path) -> Run:
        """Open a run that another process writes, to learn along with it."""
        return cls(path, Config.load(path / "config.toml"), None, Follower)

    def learner(self) -> Learner:
        """The run's learner in the state of the last checkpoint."""
        return self.restore(build_learner(self.config, self.shape))

    def restore(self, learner: Learner) -> Learner:
        """Bring a learner built from the run's configuration into the state of the checkpoint, where there is one."""
        if self._tensors:
            learner.load_state_dict(deal(self._tensors, learner))
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

    def extend(self, more: Continuation) -> None:
        """Go on with a further source: kept in the configuration before anything of it is learned."""
        self.config = self.config.model_copy(update={"more": [*self.config.more, more]})
        self._write_config()

    def _write_config(self) -> None:
        beside = self.path / ".config.toml"
        try:
            beside.write_text(self.config.dump(), encoding="utf-8")
            beside.replace(self.path / "config.toml")
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'config.toml'}: {error.strerror}") from error

    @property
    def finished(self) -> bool:
        """Whether all sources have been learned to their end."""
        return self.progress.finished and self.progress.part + 1 == len(self.config.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the run's pictures."""
        if "memory.inputs" not in self._tensors:
            raise RunError(
                f"{self.path} has no checkpoint yet; let it learn first (everlearn learn --resume {self.path})"
            )
        return tuple(self._tensors["memory.inputs"].shape[1:])  # type: ignore[return-value]

    @property
    def memory_bytes(self) -> int:
        """Bytes of what is remembered, as of the last checkpoint."""
        held = [tensor for name, tensor in self._tensors.items() if name.startswith("memory.")]
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


def _lock(path: Path) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"{path} is in use by another process; wait for it to end, or stop it") from error
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
    (path / ".lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    return lock
