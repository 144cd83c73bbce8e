"""One process's part in a run's life: step, journal, evaluate, checkpoint.

Whoever reads a figure off an accelerator waits for all that was queued before it. So steps on one are queued several at
a time, and their losses and predictions are read off together: before every checkpoint and evaluation, at the latest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch

from everlearn.data import Batch, Quarantined, Stream
from everlearn.errors import SettingError
from everlearn.learners import Learner, Prediction, StepReport
from everlearn.learners.forwards import Forwards
from everlearn.metrics.calibration import calibration_of
from everlearn.runs import checkpoints
from everlearn.runs.alarms import Alarms, Asked
from everlearn.runs.build import check_readable, take_rate
from everlearn.runs.outcomes import outcomes
from everlearn.runs.run import Run

_COMMIT_SECONDS = 1.0
_QUEUED = 16  # steps that are read off together on an accelerator


@dataclass(frozen=True)
class Moment:
    """What a progress display wants to know after a step."""

    position: int
    total: int
    step: int
    task: int | None
    loss: float
    average_accuracy: float | None
    alarms: tuple[str, ...] = ()
    evaluated: bool = False  # whether accuracy was measured since the last moment


@dataclass(frozen=True)
class Queued:
    """A step whose figures have not been read off yet; the samples are each an id, a code and a name."""

    report: StepReport
    task: int | None
    end: int
    total: int
    samples: list[tuple[int, int, str]]
    asked: Asked | None


class Session:
    """Learns the streams of a run, one after the other.

    Parameters
    ----------
    run : Run
        Open for writing.
    learner : Learner
        In the state of the run's progress.
    streams : list of Stream or None
        Numbered as in the run, one for each of its sources; None for a watched folder, or where nothing is left.
    shape : tuple of int
        (C, H, W) of the pictures.
    count : Forwards, optional
        Counts what the learner computes while it looks and learns.
    show : callable, optional
        Called with each step once it is read off.
    """

    def __init__(
        self,
        run: Run,
        learner: Learner,
        streams: Sequence[Stream | None],
        shape: tuple[int, int, int],
        count: Forwards | None = None,
        show: Callable[[Moment], None] | None = None,
    ) -> None:
        self.run, self.learner, self.streams, self.shape = run, learner, streams, shape
        self.progress, self.group = run.progress, learner.group
        self.bad: list[Quarantined] = []  # put aside since the last step
        self.alarms = Alarms(self.progress.alarms) if run.config.alarms else None
        self.evaluated = False
        self.count = count or Forwards()
        if not self.progress.step and count is not None and self.group.alone and not run.config.data.of_texts:
            self.progress.forwards = 0.0
        elif not self.group.alone:
            self.progress.forwards = None  # the others' are not known here
        self._names: dict[int, str] = {}
        self.committed = time.monotonic()
        self.show = show or (lambda moment: None)
        self.queue: list[Queued] = []
        self.together = 1 if learner.device.type == "cpu" else _QUEUED

    def begin(self, part: int) -> None:
        """Turn to a further source."""
        progress, stream = self.progress, self.streams[part]
        progress.part, progress.position, progress.finished = part, 0, False
        if stream is None:
            self.run.journal.event(progress.step, "went on", {"source": self.run.config.parts[part].data.source})
            return
        progress.matrix = [row + [None] * len(stream.tasks) for row in progress.matrix]
        known = {"source": stream.source.name, "samples": len(stream), "tasks": len(stream.tasks)}
        self.run.journal.event(progress.step, "went on", known)

    def learn_stream(self) -> None:
        """Learn what is left of the stream that was begun."""
        config, progress = self.run.config, self.progress
        stream = self.streams[progress.part]
        if stream is None:
            progress.finished = True
            return
        if not progress.samples_seen:
            check_readable(stream)
        size, start = config.parts[progress.part].stream.batch, progress.position
        share = self.group.rank, self.group.size
        for batch in stream.batches(size, start, workers=config.workers, on_bad=self.bad.append, share=share):
            self._close_tasks(stream, batch)
            if self.step(batch, partial(_name, stream), len(stream)) and progress.step % config.checkpoint_every == 0:
                self.save()
        self._close_tasks(stream, None)
        self.read_off()
        if progress.step:
            self.show(self.moment(progress.step, len(stream), len(stream)))
        progress.position, progress.finished = len(stream), True
        self._put_aside()
        self.run.journal.event(progress.step, "finished", {"samples_seen": progress.samples_seen})
        self.save()

    def step(self, batch: Batch, name: Callable[[int], str], total: int) -> bool:
        """Look at a batch and learn it; ``name`` gives a sample's name by its id.

        Of several processes each has its own part of the samples; False where nobody has any.
        """
        ids, codes = self._arrivals(batch)
        if not ids:
            self.progress.position = batch.end
            return False
        take_rate(self.run.config, self.learner)
        with self.count.counting():
            asked = self._ask(batch, ids, codes, name)
            report = self.learner.observe(batch) if len(batch) else self.learner.stand_by(batch)
        self._counted()
        self.progress.step, self.progress.position = report.step, batch.end
        self.progress.samples_seen += report.samples
        samples = [(id_, code, name(id_)) for id_, code in zip(ids, codes)]
        self.queue.append(Queued(report, batch.task, batch.end, total, samples, asked))
        if len(self.queue) >= self.together:
            self.read_off()
        return True

    def read_off(self) -> None:
        """Read the queued steps' figures, enter and show them; a loss that is not finite stops the run here."""
        queue, self.queue = self.queue, []
        for step in queue:
            self._enter(step)

    def save(self) -> None:
        """A checkpoint, once all steps before it are read off."""
        self.read_off()
        if self.alarms is not None:
            self.progress.alarms = self.alarms.state()
        self.run.save(self.learner)

    def _ask(self, batch: Batch, ids: list[int], codes: list[int], name: Callable[[int], str]) -> Asked | None:
        if self.alarms is None:
            return None
        learner = self.learner

        def predict() -> Prediction | None:
            said = learner.look(batch.inputs)
            return None if said is None else Prediction(self.group.gather(said.probabilities.float()), said.codes)

        return self.alarms.ask(codes, ids, set(learner.classes.codes), predict, self.class_names(codes), name)

    def _counted(self) -> None:
        if self.progress.forwards is not None:
            self.progress.forwards += self.count.take()

    def class_names(self, codes: list[int]) -> dict[int, str]:
        """Names of label codes, of those given at least."""
        if not set(codes) <= self._names.keys():
            self._names = self.run.journal.class_names()
        return self._names

    def _enter(self, queued: Queued) -> None:
        step, loss = queued.report.step, float(queued.report.loss)
        if not math.isfinite(loss):
            intact = (checkpoints.steps(self.run.path / "checkpoints") or [0])[-1]
            lower = self.run.config.lr_at(step - 1) / 10
            raise SettingError(
                f"the loss is {loss} at step {step}; lower the learning rate and go on from step {intact}, "
                f"which is intact: everlearn learn --resume {self.run.path} --lr {lower:g}"
            )
        self.run.journal.step(step, queued.task, loss, queued.samples)
        if time.monotonic() - self.committed > _COMMIT_SECONDS:
            self.run.journal.commit()
            self.committed = time.monotonic()
        told: list[str] = []
        if queued.asked is not None and self.alarms is not None:
            look = self.alarms.judge(queued.asked)
            if look.samples:
                self.run.journal.look(step, look.samples, look.right)
            for alarm in look.alarms:
                self.run.journal.event(step, alarm.kind, alarm.detail)
                told.append(f"step {step}: {alarm.text}")
        self.show(self.moment(step, queued.end, queued.total, queued.task, loss, tuple(told)))

    def _close_tasks(self, stream: Stream, coming: Batch | None) -> None:
        """Evaluate after every task that ends before the coming batch, or at the stream's end."""
        progress = self.progress
        ends = np.cumsum([len(task) for task in stream.tasks]).tolist()
        while len(progress.matrix) < stream.first_task + len(ends):
            number = len(progress.matrix)
            if coming is not None:
                over = coming.task > number if coming.task is not None else (
                    progress.position >= ends[number - stream.first_task])  # fmt: skip
                if not over:
                    return
            self.read_off()
            if stream.borders or coming is None:
                with self.count.counting():
                    self.learner.end_task()
                self._counted()
            accuracies = self._evaluate(stream, number)
            progress.matrix.append(accuracies)
            self.evaluated = True
            self.run.journal.evaluation(number, progress.step, accuracies)
            self.save()

    def _evaluate(self, stream: Stream, number: int) -> list[float | None]:
        """Accuracy on every task of the streams so far; of tasks to come where their classes are all known."""
        row: list[float | None] = []
        sure, right = [], []
        for each in filter(None, self.streams[: self.progress.part + 1]):
            for task, indices in enumerate(each.tests(), each.first_task):
                known = set(each.labels(indices).tolist()) <= set(self.learner.classes.codes)
                reached = task <= number or not stream.borders or known
                measured = len(indices) > 0 and reached and self.learner.classes.codes
                row.append(None)
                if measured:
                    confidence, hit = outcomes(self.learner, each, indices)
                    row[-1] = int(hit.sum()) / len(hit) if len(hit) else 0.0
                    sure.append(confidence)
                    right.append(hit)
        found = bool(sum(map(len, right)))
        self.progress.calibration_error = calibration_of(torch.cat(sure), torch.cat(right)) if found else None
        return row

    def _arrivals(self, batch: Batch) -> tuple[list[int], list[int]]:
        """Ids and codes of the step's samples in all processes; what one of them could not read is entered."""
        bad = torch.tensor([[each.id, -1] for each in self.bad], dtype=torch.int64).reshape(-1, 2)
        rows = self.group.gather(torch.cat([torch.stack([batch.ids, batch.labels], 1), bad]))
        good = rows[:, 1] >= 0
        if not good.all():
            self._put_aside()
        ids, codes = rows[good].T.tolist()
        return ids, codes

    def _put_aside(self) -> None:
        """Enter what could not be read since the last step, by any of the processes."""
        for part in self.group.gather_bytes(json.dumps([asdict(bad) for bad in self.bad]).encode()):
            for bad in json.loads(part):
                self.run.journal.quarantine(self.progress.step + 1, bad["id"], bad["name"], bad["reason"])
                self.progress.quarantined += 1
        self.bad.clear()

    def moment(
        self,
        step: int,
        position: int,
        total: int,
        task: int | None = None,
        loss: float = math.nan,
        told: tuple[str, ...] = (),
    ) -> Moment:
        """What there is to show now, with lines that are to be told."""
        evaluated, self.evaluated = self.evaluated, False
        matrix = self.progress.matrix
        measured = [value for value in (matrix[-1][: len(matrix)] if matrix else []) if value is not None]
        mean = sum(measured) / len(measured) if measured else None
        return Moment(position, total, step, task, loss, mean, told, evaluated)


def _name(stream: Stream, id_: int) -> str:
    return stream.source.names[id_ - stream.first_id]
