"""ER-ACE: experience replay with an asymmetric cross-entropy.

Caccia et al. 2022, *New Insights on Reducing Abrupt Representation Change in Online Continual Learning*
(ICLR 2022, arXiv 2104.05025).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.learners.learner import Learner, StepReport
from everlearn.learners.losses import masked_cross_entropy, present
from everlearn.memory import reservoir


class ERACE(Learner):
    """L = CE of the incoming batch over its own classes only + CE of the replayed samples over all classes.

    So what is new does not push away the features of what is old; the step costs no more than ER's.
    """

    takes = frozenset({"iterations", "augment", "review", "mkd", "average", "rrr", "region", "frames"})

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self._asymmetric_step(x, y)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def _asymmetric_step(self, x: Tensor, y: Tensor) -> Tensor:
        m = self.recall(self.memory.draw(self.replay, self.generator)) if self.memory.size else None
        inputs = x if m is None else torch.cat([x, m.inputs])
        targets = y if m is None else torch.cat([y, m.targets])
        logits, added = self.forward(inputs, targets, None if m is None else m.slots, first=len(x))
        loss = added + masked_cross_entropy(logits[: len(x)], y, present(y, logits.shape[1]))
        if m is not None:
            loss = loss + F.cross_entropy(logits[len(x) :], m.targets)
        return self.descend(loss)
