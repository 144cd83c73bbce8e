"""The review trick: a pass over memory where a task ends.

Castro et al. 2018, *End-to-End Incremental Learning* (ECCV 2018, arXiv 1807.09536); online: Mai et al. 2021 (arXiv
2101.10423).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner


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
