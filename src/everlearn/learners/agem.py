"""A-GEM: averaged gradient episodic memory.

Chaudhry, Ranzato, Rohrbach, Elhoseiny 2019, *Efficient Lifelong Learning with A-GEM* (ICLR 2019, arXiv 1812.00420).
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir


class AGEM(Learner):
    """The incoming batch's gradient g, freed of what would raise the loss on a draw from memory.

    With g_ref the gradient on the draw: g̃ = g − min(0, gᵀg_ref) / (g_refᵀg_ref) · g_ref (eq. 11). With ``mkd`` the
    incoming batch is also distilled; the bound stays memory's cross-entropy.
    """

    takes = frozenset({"loss", "iterations", "augment", "review", "average", "mkd"})

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss, g = self._gradient(x, y, distilled=True)
            if self.memory.size or not self.group.alone:
                m = self.recall(self.memory.draw(self.replay, self.generator)) if self.memory.size else None
                _, g_ref = self._gradient(x[:0], y[:0]) if m is None else self._gradient(m.inputs, m.targets)
                g = project(g, g_ref)
            self._step(g)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def stand_by(self, batch: Batch) -> StepReport:
        """As any step: what is remembered here still bounds it."""
        return self.observe(batch)

    def _gradient(self, inputs: Tensor, targets: Tensor, distilled: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Loss and its gradient, the means over all processes' samples."""
        self.stands_for, loss = len(targets), None
        if len(targets):
            seen = self.augmented(inputs)
            logits = self.model.head(self.embed(seen))
            loss = self.options.cross_entropy(logits, targets, self.old)
            if distilled and self.teacher is not None:
                loss = loss + self.distillation(inputs, seen, logits)
        told = self.gradients(loss)
        return told, [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained()]

    def _step(self, gradient: list[Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for p, g in zip(self._trained(), gradient):
            p.grad = g
        self.advance()

    def _trained(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]


def project(g: list[Tensor], g_ref: list[Tensor]) -> list[Tensor]:
    """The nearest gradient to g whose inner product with g_ref is not negative.

    Examples
    --------
    >>> import torch
    >>> project([torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 2.0])])
    [tensor([1., 0.])]
    """
    dot = torch.stack([(a * b).sum() for a, b in zip(g, g_ref)]).sum()
    square = torch.stack([b.square().sum() for b in g_ref]).sum()
    share = dot.clamp(max=0) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return [a - share * b for a, b in zip(g, g_ref)]
