"""EWC++: elastic weight consolidation with a running Fisher information.

Kirkpatrick et al. 2017 (PNAS, arXiv 1612.00796); the running form is from Chaudhry, Dokania, Ajanthan, Torr 2018,
*Riemannian Walk for Incremental Learning* (ECCV 2018, arXiv 1801.10112).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir
from everlearn.models import Model


class EWC(Learner):
    """L = CE + λ/2 Σ_i F_i (θ_i − θ*_i)², θ* the weights as the task found them.

    F is a running mean of squared gradients, F ← decay · F + (1 − decay) · g², as the task found it and divided by its
    largest entry; λ F counts as 1/lr at most, so that no step pulls a weight beyond θ*. Needs task borders. No
    remembered sample is replayed; a reservoir is kept for evidence.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    weight : float
        λ.
    decay : float
        Of the running mean, per step.
    """

    needs_tasks = True
    takes = frozenset({"loss", "augment", "average"})

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        weight: float = 100.0,
        decay: float = 0.998,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if weight < 0 or not 0 <= decay < 1:
            raise SettingError(
                f"weight is {weight} and decay {decay}; expected 0 or more, and 0 up to, not including, 1"
            )
        self.weight, self.decay = weight, decay
        self.running: dict[str, Tensor] = {}
        self.F: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        logits = self.model.head(self.embed(self.augmented(x)))
        loss = self.descend(self.options.cross_entropy(logits, y, self.old))
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def descend(self, loss: Tensor | None) -> Tensor:
        """One step on the loss and the penalty."""
        loss = self._add_penalty(self.gradients(loss))
        self.advance()
        return loss

    def begin_task(self) -> None:
        """The weights and their Fisher information become what must not move."""
        if not self.running:
            return
        largest = torch.stack([f.amax() for f in self.running.values() if f.numel()]).amax()
        self.F = {name: f / largest.clamp(min=torch.finfo(f.dtype).tiny) for name, f in self.running.items()}
        self.anchor = {name: p.detach().clone() for name, p in self._trained()}

    @torch.no_grad()
    def _add_penalty(self, loss: Tensor) -> Tensor:
        """Let F run on with the gradient of the cross-entropy, then add the penalty's: λ F (θ − θ*)."""
        most = {id(p): 1 / group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for name, p in self._trained():
            if p.grad is None:
                continue
            running = _rows(self.running.get(name, torch.zeros_like(p)), p)
            self.running[name] = running.mul_(self.decay).addcmul_(p.grad, p.grad, value=1 - self.decay)
            if name in self.F:
                away = p - _rows(self.anchor[name], p)
                pull = (self.weight * _rows(self.F[name], p)).clamp(max=most[id(p)]) * away
                loss = loss + (pull * away).sum() / 2
                p.grad += pull
        return loss

    def _trained(self) -> list[tuple[str, Tensor]]:
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad and id(p) in held]

    def rule_state(self) -> dict[str, Tensor]:
        """Running Fisher information, and what the task found."""
        parts = {"running": self.running, "F": self.F, "anchor": self.anchor}
        return {f"{part}.{name}": t.clone() for part, held in parts.items() for name, t in held.items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        parts: dict[str, dict[str, Tensor]] = {"running": {}, "F": {}, "anchor": {}}
        for key, t in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = t.to(self.device)
        self.running, self.F, self.anchor = parts["running"], parts["F"], parts["anchor"]


def _rows(held: Tensor, parameter: Tensor) -> Tensor:
    """Zeros for the rows that a head has grown since."""
    if held.shape == parameter.shape:
        return held
    return torch.cat([held, held.new_zeros(len(parameter) - len(held), *held.shape[1:])])
