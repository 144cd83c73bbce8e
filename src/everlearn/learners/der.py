"""DER++: dark experience replay, with labels.

Buzzega, Boschini, Porrello, Abati, Calderara 2020, *Dark Experience for General Continual Learning: a Strong, Simple
Baseline* (NeurIPS 2020, arXiv 2004.07211).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.beside import arrivals
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir
from everlearn.models import Model


class DER(Learner):
    """L = CE(x, y) + α MSE(h(x'), z') + β CE(x″, y″), with two draws from memory and z' the logits it had when it came.

    With β = 0 it is DER. A class that came after a sample was stored has no logit in z' and takes no part in its MSE.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    alpha, beta : float
        α and β.
    """

    takes = frozenset({"iterations", "augment", "review", "mkd", "average", "rrr", "region", "frames"})
    slotwise = frozenset({"z", "known"})

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if alpha < 0 or beta < 0:
            raise SettingError(f"alpha is {alpha} and beta {beta}; expected 0 or more for both")
        self.alpha, self.beta = alpha, beta
        self.z = torch.zeros(self.memory.capacity, 0, device=self.device)
        self.known = torch.zeros(self.memory.capacity, dtype=torch.int64, device=self.device)  # logits each sample has

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss, z = self._dark_step(x, y)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        self._keep(batch.ids, z)
        return self.finish(batch, loss)

    def _dark_step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets, slots, both = x, y, None, None
        if self.memory.size:
            slots = self.memory.draw(self.replay, self.generator)
            labelled = self.recall(self.memory.draw(self.replay, self.generator))
            dark = self.recall(slots)
            inputs = torch.cat([x, dark.inputs, labelled.inputs])
            targets = torch.cat([y, dark.targets, labelled.targets])
            both = torch.cat([slots, labelled.slots])
        logits, added = self.forward(inputs, targets, both, first=len(x))
        n, C = len(x), logits.shape[1]
        loss = added + F.cross_entropy(logits[:n], y)
        if slots is not None:
            h, again = logits[n : n + len(slots)], logits[n + len(slots) :]
            z = F.pad(self.z, (0, C - self.z.shape[1]))[slots]
            had = torch.arange(C, device=self.device) < self.known[slots, None]
            loss = loss + self.alpha * ((h - z) * had).square().sum() / had.sum()
            loss = loss + self.beta * F.cross_entropy(again, labelled.targets)
        return self.descend(loss), logits[:n].detach()

    def _keep(self, ids: Tensor, z: Tensor) -> None:
        """Store the logits of the samples that memory took in."""
        self.z = F.pad(self.z, (0, z.shape[1] - self.z.shape[1]))
        new, position = arrivals(self.memory, ids, self.step)
        held = slice(0, self.memory.size)
        self.z[held] = torch.where(new[:, None], z[position], self.z[held])
        self.known[held] = torch.where(new, z.shape[1], self.known[held])

    def renew(self, slots: Tensor) -> None:
        """As for every learner; the logits become those of now."""
        super().renew(slots)
        with self.evaluating():
            z = self.model.head(self.encode(self.recall(slots).inputs))
        self.z = F.pad(self.z, (0, z.shape[1] - self.z.shape[1]))
        self.z[slots], self.known[slots] = z, z.shape[1]

    def rule_state(self) -> dict[str, Tensor]:
        """The stored logits."""
        size = self.memory.size
        return {"z": self.z[:size].clone(), "known": self.known[:size].clone()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        size, C = state["z"].shape
        self.z = torch.zeros(self.memory.capacity, C, device=self.device)
        self.known.zero_()
        self.z[:size], self.known[:size] = state["z"].to(self.device), state["known"].to(self.device)
