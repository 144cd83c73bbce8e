"""Learning the sources of a run one after the other; and going on after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from everlearn.data import Source, Stream
from everlearn.errors import RunError, SettingError
from everlearn.learners import Group, Learner
from everlearn.learners.forwards import counting_forwards
from everlearn.runs.build import (
    build_learner,
    build_source,
    build_stream,
    build_streams,
    check_borders,
    check_readable,
    fixed_shape,
)
from everlearn.runs.config import Config, Continuation
from everlearn.runs.contents import check_contents
from everlearn.runs.evaluate import same_source
from everlearn.runs.run import Run
from everlearn.runs.scenario import altered
from everlearn.runs.session import Moment, Session
from everlearn.runs.watch import Watch

__all__ = ["Moment", "Prepared", "go_on_with", "learn", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What settings amount to, built before a run's directory is made, so that bad ones leave nothing behind."""

    streams: list[Stream | None]
    learner: Learner
    shape: tuple[int, int, int]


def prepare(config: Config, source: Source | None = None, group: Group | None = None) -> Prepared:
    """Open the sources, order the streams, build the learner; ``source`` is the first one if it is open already.

    ``group`` are the processes that learn together, where there are several.
    """
    if config.data.of_texts and any(part.data.watch for part in config.parts):
        raise SettingError("pictures can be watched, texts cannot; leave --watch out")
    streams: list[Stream | None] = (
        [build_stream(config, altered(source, config.data, config.seed))] if source else build_streams(config)
    )
    shape = next((stream.source.shape for stream in streams if stream is not None), fixed_shape(config))
    if source and streams[0] is not None:
        check_readable(streams[0])
    if shape is None:
        raise SettingError("a folder that is only watched has no pictures yet to see: give --size and --channels")
    learner = build_learner(config, shape, group)
    for part, stream in zip(config.parts, streams):
        check_borders(config, part, stream)
    return Prepared(streams, learner, shape)


def go_on_with(run: Run, *more: Continuation) -> None:
    """Enter further sources into a run that has learned all of those before; `learn` then goes on with them.

    All are opened and checked first, so that a bad one leaves the run as it was.

    Raises
    ------
    RunError
        If the run has not finished.
    SettingError
        If it has learned a source already, or cannot learn it.
    """
    parts = run.config.parts
    for part in more:
        _check_further(run, parts, part)
        parts.append(part)
    if more:
        run.extend(*more)


def _check_further(run: Run, parts: Sequence[Continuation], more: Continuation) -> None:
    """Refuse a source that cannot follow the parts of a run."""
    known = [part.data.source for part in parts if not (part.data.watch and more.data.watch)]
    if any(same_source(spec, more.data.source) for spec in known):
        raise SettingError(
            f"{run.path} holds a run already, which knows {more.data.source}: expected another source to go on with "
            "(a new run needs another --run, an interrupted one --resume)"
        )
    if more.data.watch and run.config.data.of_texts:
        raise SettingError("pictures can be watched, texts cannot; go on with a table of new texts instead")
    if not more.data.watch and not run.finished:
        raise RunError(f"{run.path} has not finished what it began; go on with --resume {run.path} first")
    stream = None
    if not more.data.watch:
        stream = build_stream(run.config, build_source(run.config, shape=run.shape, part=more.data), more.stream)
        check_readable(stream)
    check_borders(run.config, more, stream)


def learn(run: Run, show: Callable[[Moment], None] | None = None, prepared: Prepared | None = None) -> Learner:
    """Learn the run's sources to their end, from the last checkpoint on.

    Parameters
    ----------
    run : Run
        Open for writing.
    show : callable, optional
        Called after each step.
    prepared : Prepared, optional
        From the run's own configuration.

    Returns
    -------
    Learner
        In its final state, which the last checkpoint holds as well.
    """
    prepared = prepared or prepare(run.config)
    with counting_forwards(prepared.learner) as count:
        learner = run.restore(prepared.learner)  # old models among its state are copies, and so counted too
        streams = _begun(run, learner, prepared)
        _learn_parts(Session(run, learner, streams, prepared.shape, count, show))
    return learner


def _begun(run: Run, learner: Learner, prepared: Prepared) -> list[Stream | None]:
    """The streams numbered as in the run, and the journal at the learner's step."""
    streams: list[Stream | None] = []

    def begin() -> None:
        for part, stream in enumerate(prepared.streams):
            if stream is not None:
                check_contents(run, part, stream.source)
        streams.extend(_without(run.number_all(prepared.streams), run.journal.forgotten()))
        run.journal.rewind(run.progress.step)
        for warning in run.warnings:
            run.journal.event(run.progress.step, "warning", {"text": warning})
        several = {} if learner.group.alone else {"processes": learner.group.size}
        run.journal.event(run.progress.step, "resumed" if run.progress.step else "started", several)
        run.journal.commit()

    learner.group.first(begin)
    return streams


def _learn_parts(session: Session) -> None:
    """Learn one source after the other, from the one that was begun on."""
    run = session.run
    while True:
        part, last = run.progress.part, run.progress.part + 1 == len(run.config.parts)
        data = run.config.parts[part].data
        if data.watch:
            if not session.group.alone:
                raise SettingError(f"{data.source} is watched by one process alone; take a single one, not several")
            _watch(Watch(session, Path(data.source), part), last)
        elif not run.progress.finished:
            session.learn_stream()
        if last:
            return
        session.begin(part + 1)


def _watch(watch: Watch, last: bool) -> None:
    """Watch on if this is the run's last part; else learn what had arrived until the next one was begun."""
    run = watch.session.run
    if last:
        run.progress.finished = True  # there is always a next file, and never one that must come first
        watch.work()
    watch.replay()
    run.progress.finished = True


def _without(streams: Sequence[Stream | None], ids: list[int]) -> list[Stream | None]:
    """The streams without forgotten samples; whoever forgets begins anew, so that positions stay what they mean."""
    if not ids:
        return list(streams)
    left: list[Stream | None] = []
    tasks = 0
    for stream in streams:
        if stream is None:
            left.append(None)
            continue
        kept = [task[~np.isin(np.asarray(task) + stream.first_id, ids)] for task in stream.tasks]
        tests = stream.tests()
        some = [number for number, task in enumerate(kept) if len(task)]
        held_out = [tests[n] for n in some]
        kept = [kept[n] for n in some]
        left.append(replace(stream, tasks=kept, held_out=held_out, first_task=tasks) if some else None)
        tasks += len(some)
    return left
