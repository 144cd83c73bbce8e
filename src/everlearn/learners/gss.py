"""GSS-greedy: gradient-based sample selection.

Aljundi, Lin, Goujaud, Bengio 2019, *Gradient based sample selection for online continual learning* (NeurIPS 2019, arXiv
1903.08671), Algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.er import ER
from everlearn.learners.learner import StepReport
from everlearn.learners.sample_gradients import gradient_products
from everlearn.memory import Remembered
from everlearn.models import Model


class GSS(ER):
    """Experience replay with a memory whose samples' gradients point in many directions.

    A sample's score is c = 1 + the largest cosine between its gradient and those of a few samples drawn from memory. In
    a full memory a sample with c < 1 challenges a slot i, drawn with probability C_i / Σ C, and takes it with
    probability C_i / (C_i + c). The challenges of one batch are held at once; of two that win one slot the later stays.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    strength : int
        Samples drawn from memory to compare with, in evaluation mode, by `gradient_products`.
    """

    slotwise = frozenset({"score"})

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        strength: int = 10,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if strength < 1:
            raise SettingError(f"strength is {strength}; expected 1 or more samples to compare with")
        self.strength = strength
        self.score = torch.zeros(self.memory.capacity, device=self.device)

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self.replay_step(x, y)
        self._select(batch, x, y)
        return self.finish(batch, loss)

    def _select(self, batch: Batch, x: Tensor, y: Tensor) -> None:
        memory = self.memory
        c = self._scores(x, y)
        room = min(memory.capacity - memory.size, len(y))
        memory.offered += len(y)
        if room:
            self.score[memory.size : memory.size + room] = c[:room]
            memory.append(x[:room], y[:room], batch.ids[:room], self.step, classes=len(self.classes.codes))
        if room == len(y):
            return
        u, r = torch.rand(2, len(y) - room, generator=self.generator).to(self.device, non_blocking=True)
        c = c[room:]
        total = self.score.clamp(min=1e-6).cumsum(0)
        i = torch.searchsorted(total, u * total[-1]).clamp(max=memory.capacity - 1)
        wins = (c < 1) & (r < self.score[i] / (self.score[i] + c))
        later = torch.triu((i[:, None] == i) & wins, 1).any(1)  # a later winner of the same slot
        kept = wins & ~later
        ids = batch.ids[room:]
        memory.write(i, x[room:], y[room:], ids, self.step, classes=len(self.classes.codes), keep=kept)
        self.score = torch.cat([self.score, self.score.new_zeros(1)])  # the last one takes what was not kept
        self.score[torch.where(kept, i, memory.capacity)] = c
        self.score = self.score[:-1].contiguous()

    def _scores(self, x: Tensor, y: Tensor) -> Tensor:
        """``[n]``: 1 + the largest cosine to a few remembered samples' gradients; 1 while memory is empty."""
        if not self.memory.size:
            return torch.ones(len(y), device=self.device)
        return self._beside(self.recall(self.memory.draw(self.strength, self.generator)), x, y).amax(1)

    def _beside(self, m: Remembered, x: Tensor, y: Tensor) -> Tensor:
        """``[n, len(m)]``: 1 + the cosine of each sample's gradient to each remembered one's."""
        return 1 + self.gradient_cosines(torch.cat([m.inputs, x]), torch.cat([m.targets, y]))[len(m) :, : len(m)]

    def renew(self, slots: Tensor) -> None:
        """As for every learner; the scores are of the samples that stand there, beside others."""
        super().renew(slots)
        those = self.recall(slots)
        m = self.recall(self.memory.draw(self.strength + len(slots), self.generator))
        c = self._beside(m, those.inputs, those.targets)
        self.score[slots] = c.masked_fill(slots[:, None] == m.slots, 0).amax(1)

    def gradient_cosines(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """``[n, n]``: cosines of the gradients of the samples' own losses, in evaluation mode."""
        with self.evaluating():
            K = gradient_products(self.model, inputs, targets, self.passed)
        length = K.diagonal().clamp(min=torch.finfo(K.dtype).tiny).rsqrt()
        return K * length * length[:, None]

    def rule_state(self) -> dict[str, Tensor]:
        """The scores of the remembered samples."""
        return {"score": self.score[: self.memory.size].clone()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self.score.zero_()
        self.score[: len(state["score"])] = state["score"].to(self.device)
