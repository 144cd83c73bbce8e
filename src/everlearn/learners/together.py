"""What a learner exchanges with the other processes of its group in a step; alone, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner


def told(learner: Learner, labels: Tensor) -> Tensor:
    """The labels of all processes' batches; before the first one all take over the weights of process 0."""
    if not (learner.classes.codes or learner.group.alone):
        begun = [learner.model, *(follower.model for follower in learner.followers().values())]
        trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
        learner.group.broadcast([*(t for model in begun for t in model.state_dict().values()), *trained])
    return learner.group.gather(labels)


def gradients_of_all(learner: Learner, loss: Tensor | None) -> Tensor:
    """Backward of a loss, None where there is nothing to learn from: gradients and loss as means over all samples."""
    weight = 0 if loss is None else learner.stands_for
    loss = learner.model.head(learner.embed(learner.none)).sum() if loss is None else loss
    loss = loss * (weight / max(1, int(learner.group.total(torch.tensor(weight)))))
    loss.backward()
    mean = loss.detach().clone()
    trained = [p for group in learner.optimizer.param_groups for p in group["params"] if p.requires_grad]
    for p in trained:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    learner.group.add_up([*(p.grad for p in trained if p.grad is not None), mean])
    return mean
