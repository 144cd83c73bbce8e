"""GDumb: greedily gather a balanced memory, then train on nothing else.

Prabhu, Torr, Dokania 2020, *GDumb: A Simple Approach that Questions Our Progress in Continual Learning* (ECCV 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.learners.refit import Refit
from everlearn.memory import HostClasses
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
        self._host = HostClasses()

    def gather(self, batch: Batch, x: Tensor, y: Tensor) -> None:
        """Greedy balancing, sample by sample as the paper has it."""
        targets = self.classes.indices(batch.labels)
        self._host.offer(self.memory, x, targets, batch.ids, self.step, self._slot, classes=len(self.classes.codes))

    def _slot(self, label: int) -> int | None:
        counts = self._host.counts(len(self.classes.codes))
        present = (counts > 0).sum() + (counts[label] == 0)
        if counts[label] >= self.memory.capacity / present:
            return None
        if self._host.free is not None:
            return self._host.free
        u = float(torch.rand((), generator=self.generator, dtype=torch.float64))
        return self._host.one_of(int(counts.argmax()), u)
