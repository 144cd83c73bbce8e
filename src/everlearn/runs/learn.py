"""Learning a stream within a run: step, journal, evaluate, checkpoint; and going on after any interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from everlearn.data import Batch, Quarantined, Stream, load
from everlearn.errors import SettingError
from everlearn.learners import Learner, StepReport
from everlearn.runs import checkpoints
from everlearn.runs.build import build_learner, build_source, build_stream
from everlearn.runs.config import Config
from everlearn.runs.run import Run

_COMMIT_SECONDS = 1.0


@dataclass(frozen=True)
class Moment:
    """What a progress display wants to know after a step."""

    position: int
    total: int
    step: int
    task: int | None
    loss: float
    average_accuracy: float | None


@dataclass(frozen=True)
class Prepared:
    """What settings amount to, built before a run's directory is made, so that bad ones leave nothing behind."""

    stream: Stream
    learner: Learner


def prepare(config: Config) -> Prepared:
    """Open the source, order the stream, build the learner."""
    source = build_source(config)
    return Prepared(build_stream(config, source), build_learner(config, source.shape))


def learn(run: Run, show: Callable[[Moment], None] | None = None, prepared: Prepared | None = None) -> Learner:
    """Learn the run's stream to its end, from the last checkpoint on.

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
    learner, stream = run.restore(prepared.learner), run.number(prepared.stream)
    stream = _without(stream, run.journal.forgotten())
    run.journal.rewind(run.progress.step)
    for warning in run.warnings:
        run.journal.event(run.progress.step, "warning", {"text": warning})
    run.journal.event(run.progress.step, "resumed" if run.progress.step else "started", {})
    run.journal.commit()
    if not run.progress.finished:
        _Session(run, learner, stream).work(show)
    return learner


def _without(stream: Stream, ids: list[int]) -> Stream:
    """The stream without forgotten samples; whoever forgets begins it anew, so that positions stay what they mean."""
    if not ids:
        return stream
    tasks = [task[~np.isin(np.asarray(task) + stream.first_id, ids)] for task in stream.tasks]
    tests = stream.tests()
    left = [number for number, task in enumerate(tasks) if len(task)]
    return replace(stream, tasks=[tasks[n] for n in left], held_out=[tests[n] for n in left])


class _Session:
    """One process's part in a run's life."""

    def __init__(self, run: Run, learner: Learner, stream: Stream) -> None:
        self.run, self.learner, self.stream = run, learner, stream
        self.progress = run.progress
        self.tests = stream.tests()
        self.ends = np.cumsum([len(task) for task in stream.tasks]).tolist()
        self.bad: list[Quarantined] = []  # put aside since the last step
        self.committed = time.monotonic()

    def work(self, show: Callable[[Moment], None] | None) -> None:
        config, progress = self.run.config, self.progress
        batches = self.stream.batches(
            config.stream.batch, start=progress.position, workers=config.workers, on_bad=self._put_aside
        )
        for batch in batches:
            self._close_tasks(batch)
            report = self.learner.observe(batch)
            self._enter(batch, report)
            if show:
                show(self._moment(batch, report))
            if report.step % config.checkpoint_every == 0:
                self.run.save(self.learner)
        self._close_tasks(None)
        progress.position, progress.finished = len(self.stream), True
        progress.quarantined += len(self.bad)
        self.run.journal.event(progress.step, "finished", {"samples_seen": progress.samples_seen})
        self.run.save(self.learner)

    def _enter(self, batch: Batch, report: StepReport) -> None:
        progress = self.progress
        progress.step, progress.position = report.step, batch.end
        progress.samples_seen += report.samples
        progress.quarantined += len(self.bad)
        self.bad.clear()
        loss = float(report.loss)
        if not math.isfinite(loss):
            raise SettingError(
                f"the loss is {loss} at step {report.step}; lower the learning rate (--lr) and resume from step "
                f"{(checkpoints.steps(self.run.path / 'checkpoints') or [0])[-1]}, which is intact"
            )
        names, rows = self.stream.source.names, zip(batch.ids.tolist(), batch.labels.tolist())
        samples = [(id_, code, names[id_ - self.stream.first_id]) for id_, code in rows]
        self.run.journal.step(report.step, batch.task, loss, samples)
        if time.monotonic() - self.committed > _COMMIT_SECONDS:
            self.run.journal.commit()
            self.committed = time.monotonic()

    def _close_tasks(self, coming: Batch | None) -> None:
        """Evaluate after every task that ends before the coming batch, or at the stream's end."""
        progress, ends = self.progress, self.ends
        while len(progress.matrix) < len(ends):
            number = len(progress.matrix)
            if coming is not None:
                over = coming.task > number if coming.task is not None else progress.position >= ends[number]
                if not over:
                    return
            if self.stream.borders or coming is None:
                self.learner.end_task()
            accuracies = self._evaluate(number)
            progress.matrix.append(accuracies)
            self.run.journal.evaluation(number, progress.step, accuracies)
            self.run.save(self.learner)

    def _evaluate(self, number: int) -> list[float | None]:
        row: list[float | None] = []
        for task, indices in enumerate(self.tests):
            measured = len(indices) > 0 and (task <= number or not self.stream.borders) and self.learner.classes.codes
            row.append(accuracy(self.learner, self.stream, indices) if measured else None)
        return row

    def _put_aside(self, bad: Quarantined) -> None:
        self.bad.append(bad)
        self.run.journal.quarantine(self.progress.step + 1, bad.id, bad.name, bad.reason)

    def _moment(self, batch: Batch, report: StepReport) -> Moment:
        measured = [value for value in (self.progress.matrix[-1] if self.progress.matrix else []) if value is not None]
        mean = sum(measured) / len(measured) if measured else None
        return Moment(batch.end, len(self.stream), report.step, batch.task, float(report.loss), mean)


def accuracy(learner: Learner, stream: Stream, indices: NDArray[np.int64], chunk: int = 1000) -> float:
    """Share of held-out samples whose class is predicted; samples that cannot be read are left out."""
    right = total = 0
    for start in range(0, len(indices), chunk):
        inputs, _, kept = load(stream.source, indices[start : start + chunk])
        if len(kept):
            right += int((learner.predict(inputs).labels.cpu() == stream.labels(kept)).sum())
            total += len(kept)
    return right / total if total else 0.0
