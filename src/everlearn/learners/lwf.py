"""LwF: learning without forgetting.

Li & Hoiem 2017, *Learning without Forgetting* (TPAMI, arXiv 1606.09282).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.frozen_copy import frozen_copy, restored_copy
from everlearn.learners.learner import Learner, StepReport
from everlearn.learners.losses import distillation, separated_softmax
from everlearn.memory import reservoir
from everlearn.models import Model


class LwF(Learner):
    """L = CE over the current task's classes + λ · distillation of the old classes from the model as the task found it.

    Needs task borders. No remembered sample is replayed; a reservoir is kept for evidence.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    weight : float
        λ.
    temperature : float
        Of the distillation.
    """

    needs_tasks = True
    takes = frozenset({"augment", "average"})

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if weight < 0 or temperature <= 0:
            raise SettingError(f"weight is {weight} and temperature {temperature}; expected 0 or more, and above 0")
        self.weight, self.temperature = weight, temperature
        self.past: Model | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        seen = self.augmented(x)
        logits = self.model.head(self.embed(seen))
        loss = separated_softmax(logits, y, self.old)
        if self.past is not None:
            with torch.no_grad(), self.autocast():
                f = self.past.features(self.to_layout(seen))
            taught = self.past.head(f.float())
            loss = loss + self.weight * distillation(logits[:, : self.old], taught[:, : self.old], self.temperature)
        loss = self.descend(loss)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def begin_task(self) -> None:
        """Keep the model as the task finds it."""
        self.past = frozen_copy(self.model) if self.old else None

    def rule_state(self) -> dict[str, Tensor]:
        """The model as the task found it."""
        return {} if self.past is None else {name: w.clone() for name, w in self.past.state_dict().items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self.past = restored_copy(self.model, state) if state else None
