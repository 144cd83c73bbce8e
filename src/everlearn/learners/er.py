"""ER: experience replay with a reservoir memory.

Chaudhry et al. 2019, *On Tiny Episodic Memories in Continual Learning* (arXiv 1902.10486).
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir


class ER(Learner):
    """One step on the incoming batch joined with as many samples drawn uniformly from memory."""

    takes = Learner.takes | {"iterations"}

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self.replay_step(x, y)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def replay_step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on the batch and a new draw from memory."""
        if not self.memory.size:
            return self.train_step(x, y)
        m = self.recall(self.retrieve(x, y))
        return self.train_step(torch.cat([m.inputs, x]), torch.cat([m.targets, y]), m.slots)

    def retrieve(self, x: Tensor, y: Tensor) -> Tensor:
        """Slots of memory that join the step."""
        return self.memory.draw(self.replay, self.generator)
