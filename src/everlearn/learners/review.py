"""The review trick: a pass over memory where a task ends; and what an expert's correction is rehearsed by.

Castro et al. 2018, *End-to-End Incremental Learning* (ECCV 2018, arXiv 1807.09536); online: Mai et al. 2021 (arXiv
2101.10423).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner

REPLAY = 64
"""Samples from memory that join a corrected one."""
COPIES = 8
"""How often the corrected sample stands in that batch."""


def review(learner: Learner, share: float) -> None:
    """One pass over memory at a share of the learning rate; not counted as steps."""
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    for group in learner.optimizer.param_groups:
        group["lr"] *= share
    order = torch.randperm(learner.memory.size, generator=learner.generator).to(learner.device)
    parts = [slots for slots in order.split(2 * learner.replay) if len(slots)]
    steps = int(learner.group.gather(torch.tensor([len(parts)])).max())  # others may hold more
    for i in range(steps):
        if i < len(parts):
            m = learner.recall(parts[i])
            learner.stands_for = len(m)
            learner.train_step(m.inputs, m.targets, parts[i])
        else:
            learner.descend(None)
    for group, rate in zip(learner.optimizer.param_groups, rates):
        group["lr"] = rate
    learner.forget_derived()


def copies_of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A corrected sample as often as it stands in a rehearsal's batch.

    Examples
    --------
    >>> x, y = copies_of(torch.zeros(1, 3, 8, 8), torch.tensor([4]))
    >>> x.shape, y.tolist()
    (torch.Size([8, 3, 8, 8]), [4, 4, 4, 4, 4, 4, 4, 4])
    """
    return x.expand(COPIES, *x.shape[1:]), y.expand(COPIES)


def rehearse(learner: Learner, x: Tensor, y: Tensor) -> None:
    """One step on a corrected sample and a draw from memory, over all classes: the model was wrong among them all."""
    m = learner.recall(learner.memory.draw(REPLAY, learner.generator))
    xs, ys = copies_of(x, y)
    old, learner.old = learner.old, 0  # a loss that separates old classes from new ones could not tell across
    try:
        learner.train_step(torch.cat([m.inputs, xs]), torch.cat([m.targets, ys]), m.slots)
    finally:
        learner.old = old


def is_likeliest(learner: Learner, x: Tensor, y: Tensor, odds: float) -> bool:
    """Whether a sample's class is predicted, with more than ``odds``."""
    prediction = learner.predict(x)
    likeliest = int(prediction.probabilities[0].argmax()) == int(y)
    return likeliest and float(prediction.confidence[0]) > odds
