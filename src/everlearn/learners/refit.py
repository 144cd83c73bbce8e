"""What the methods share that gather samples first and train a model from the beginning when it is wanted."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.device import mixed
from everlearn.learners.learner import Learner, Prediction, StepReport
from everlearn.models import Model


class Refit(Learner):
    """Observing only gathers; where a task ends, or when it is asked, the model is trained anew on memory.

    Training starts from the model's first weights and draws from a seed of its own, made of the learner's seed and
    step: when and how often one asks changes nothing. A step's report has no loss (0), since nothing is trained in it.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    epochs : int
        Passes over memory.
    batch : int
        Samples of a training step.
    schedule : {"constant", "cosine"}
        The learning rate stays as the optimiser has it, or falls to a hundredth of it along a half cosine.
    clip : float
        Bound on the norm of the gradient.
    """

    takes = frozenset({"augment", "region", "frames"})
    alone = True
    rehearsals = 0  # a correction stands in memory, and all training begins anew

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epochs: int,
        batch: int,
        schedule: str,
        clip: float = 10.0,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if epochs < 1 or batch < 1:
            raise SettingError(f"epochs is {epochs} and batch {batch}; expected 1 or more for both")
        if schedule not in ("constant", "cosine"):
            raise SettingError(f"schedule is {schedule!r}; expected 'constant' or 'cosine'")
        if clip <= 0:
            raise SettingError(f"clip is {clip}; expected a bound above 0")
        self.epochs, self.batch, self.schedule, self.clip = epochs, batch, schedule, clip
        self._first: dict[str, Tensor] | None = None  # the first weights, while the model has others

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        self._unfit()
        x, y = self.receive(batch)
        self.gather(batch, x, y)
        return self.finish(batch, torch.zeros((), device=self.device))

    def gather(self, batch: Batch, x: Tensor, y: Tensor) -> None:
        """Offer the batch to memory."""
        raise NotImplementedError

    def end_task(self) -> None:
        """Train, if memory has changed since the last time."""
        self.fit()

    def predict(self, inputs: Tensor, chunk: int = 256) -> Prediction:
        """Train if need be, then predict as every learner does."""
        self.fit()
        return super().predict(inputs, chunk)

    def look(self, inputs: Tensor) -> Prediction | None:
        """Nothing: it would train the model anew for every batch."""
        return None

    def as_classifier(self) -> nn.Module | None:
        """Train if need be, then as for every learner."""
        self.fit()
        return super().as_classifier()

    def logits(self, inputs: Tensor) -> Tensor:
        """Train if need be, then as for every learner."""
        self.fit()
        return super().logits(inputs)

    def features(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Train if need be, then as for every learner."""
        self.fit()
        return super().features(inputs, chunk)

    def fit(self) -> None:
        """Train the model on memory from its first weights, unless it is trained already."""
        if self._first is not None or not self.memory.size:
            return
        with torch.inference_mode(False), torch.enable_grad():
            self._first = {name: w.detach().clone() for name, w in self.model.state_dict().items()}
            was_training, rates = self.model.training, [group["lr"] for group in self.optimizer.param_groups]
            self._train(torch.Generator().manual_seed(mixed(self.seed, self.step)), rates)
            for group, rate in zip(self.optimizer.param_groups, rates):
                group["lr"] = rate
            self.model.train(was_training)
        self.forget_derived()

    def _train(self, generator: torch.Generator, rates: list[float]) -> None:
        size = self.memory.size
        steps, done = self.epochs * math.ceil(size / self.batch), 0
        for _ in range(self.epochs):
            for slots in torch.randperm(size, generator=generator).to(self.device).split(self.batch):
                share = 1.0 if self.schedule == "constant" else 0.01 + 0.99 * (1 + math.cos(math.pi * done / steps)) / 2
                for group, rate in zip(self.optimizer.param_groups, rates):
                    group["lr"] = rate * share
                m = self.recall(slots)
                self.optimizer.zero_grad(set_to_none=True)
                logits, added = self.forward(m.inputs, m.targets, slots, generator=generator)
                (F.cross_entropy(logits, m.targets) + added).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                self.optimizer.step()
                done += 1

    def _unfit(self) -> None:
        if self._first is not None:
            self.model.load_state_dict(self._first)
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.state.clear()
            self._first = None

    def drop(self, slots: Tensor) -> None:
        """As for every learner; what was trained with them is trained anew."""
        self._unfit()
        super().drop(slots)

    def rule_state(self) -> dict[str, Tensor]:
        """The first weights, while the model has others."""
        return {} if self._first is None else dict(self._first)

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self._first = {name: w.to(self.device) for name, w in state.items()} if state else None
