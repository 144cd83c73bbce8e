"""MIR: maximally interfered retrieval.

Aljundi et al. 2019, *Online Continual Learning with Maximally Interfered Retrieval* (NeurIPS 2019, arXiv 1908.04742).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.learners.er import ER
from everlearn.memory import Remembered
from everlearn.models import Model


class MIR(ER):
    """Experience replay of the samples whose loss the incoming batch's own step would raise most.

    θᵛ = θ − lr · ∇L(incoming); of a uniform draw of candidates those with the largest ℓ(θᵛ) − ℓ(θ) are replayed. Losses
    are compared in training mode, over the candidates' own batch statistics: the running ones lag behind where the
    stream changes, and choose worse than chance there. They do not see the virtual step.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    candidates : int
        Samples drawn from memory to choose from.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        candidates: int = 50,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if candidates < self.replay:
            raise SettingError(
                f"candidates is {candidates}; expected at least the {self.replay} samples that are replayed"
            )
        self.candidates = candidates

    def retrieve(self, x: Tensor, y: Tensor) -> Tensor:
        """The most interfered of the candidates."""
        C = self.memory.draw(self.candidates, self.generator)
        if len(C) <= self.replay:
            return C
        interference = self._interference(self._virtual_step(x, y), self.recall(C))
        return C[interference.topk(self.replay).indices]

    def _interference(self, virtual: dict[str, Tensor], m: Remembered) -> Tensor:
        """ℓ(θᵛ) − ℓ(θ) of each candidate."""
        now = {name: p.detach() for name, p in self.model.named_parameters()}
        after = self._losses(now | virtual, m.inputs, m.targets)
        self._forwards -= 1  # the same pass once more: dropout leaves out the same
        return after - self._losses(now, m.inputs, m.targets)

    def _virtual_step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """θᵛ by plain gradient descent at the optimiser's learning rate."""
        rate = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad and id(p) in rate}
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        loss = F.cross_entropy(self.model.head(self.embed(x, together=False)), y)
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for name, b in self.model.named_buffers():
            b.copy_(buffers[name])
        return {
            name: p.detach() if g is None else p.detach() - rate[id(p)] * g
            for (name, p), g in zip(trained.items(), gradients)
        }

    def _losses(self, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        state = weights | {name: b.clone() for name, b in self.model.named_buffers()}
        backbone = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
        self.model.train()
        with torch.no_grad():
            with self._seeded(), self.autocast():
                f = functional_call(self.model.backbone, backbone, (self.to_layout(inputs),)).flatten(1).float()
            logits = F.linear(f, weights["head.weight"], weights["head.bias"])
            return F.cross_entropy(logits, targets, reduction="none")
