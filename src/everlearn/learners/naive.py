"""Naive fine-tuning: no memory takes part; the lower bound that every method is measured against."""

from __future__ import annotations

from everlearn.data.samples import Batch
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir


class Naive(Learner):
    """One step on the incoming batch alone. A reservoir is kept for evidence; no sample of the stream is replayed.

    Memory enters training only where an expert's correction is rehearsed, which would push out what is known.
    """

    takes = Learner.takes - {"rrr", "review"}

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        loss = self.train_step(x, y)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)
