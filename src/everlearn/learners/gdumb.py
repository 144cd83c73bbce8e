"""GDumb: greedily gather a balanced memory, then train on nothing else.

Prabhu, Torr, Dokania 2020, *GDumb: A Simple Approach that Questions Our Progress in Continual Learning* (ECCV 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.learners.refit import Refit
from everlearn.models import Model


class GDumb(Refit):
    """A sample is kept while its class has less than its share; a full memory gives up one of the largest class.

    The paper trains 256 epochs with cutmix; Mai et al. 2021 (arXiv 2101.10423) 30, which is the default here.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    epochs, batch, schedule, **settings
        As for `Refit`.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epochs: int = 30,
        batch: int = 16,
        schedule: str = "cosine",
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, epochs=epochs, batch=batch, schedule=schedule, **settings)

    def gather(self, batch: Batch, x: Tensor, y: Tensor) -> None:
        """Greedy balancing, sample by sample as the paper has it."""
        memory, classes = self.memory, len(self.classes.codes)
        memory.offered += len(y)
        for i, label in enumerate(y.tolist()):
            counts = memory.counts.tolist() + [0] * (classes - memory.n_classes)
            if counts[label] >= memory.capacity / max(1, sum(1 for c, n in enumerate(counts) if n or c == label)):
                continue
            one = slice(i, i + 1)
            if not memory.full:
                memory.append(x[one], y[one], batch.ids[one], self.step)
                continue
            members = memory.index.slots(counts.index(max(counts)))
            victim = members[torch.randint(len(members), (1,), generator=self.generator).to(members.device)]
            memory.write(victim, x[one], y[one], batch.ids[one], self.step, classes=classes)
