"""The upper bounds: all samples of the past are at hand whenever the model is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.refit import Refit
from everlearn.models import Model


class Joint(Refit):
    """One shuffled pass over everything seen so far, from the first weights: what one pass could give at best.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`; ``memory`` must hold the whole stream.
    epochs, batch, schedule, **settings
        As for `Refit`.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epochs: int = 1,
        batch: int = 10,
        schedule: str = "constant",
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, epochs=epochs, batch=batch, schedule=schedule, **settings)

    def observe(self, batch: Batch) -> Any:
        """Take in one batch; refuses it whole where memory has no room for it."""
        if self.memory.size + len(batch) > self.memory.capacity:
            raise SettingError(
                f"{type(self).__name__} keeps every sample and its memory of {self.memory.capacity} is full; "
                "set memory to the number of samples in the stream"
            )
        return super().observe(batch)

    def gather(self, batch: Batch, x: Tensor, y: Tensor) -> None:
        """Keep all."""
        self.memory.offered += len(y)
        self.memory.append(x, y, batch.ids, self.step, classes=len(self.classes.codes))


class Offline(Joint):
    """Many passes over everything seen so far: what the model can learn at all."""

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epochs: int = 30,
        batch: int = 32,
        schedule: str = "cosine",
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, epochs=epochs, batch=batch, schedule=schedule, **settings)
