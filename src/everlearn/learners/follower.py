"""A copy of the learning model whose weights follow it, step by step, as an exponential mean."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.learners.frozen_copy import frozen_copy
from everlearn.models import Model


class Follower:
    """Weights that follow the learning model: after every step θ̄ ← (1 − α) θ̄ + α θ, BatchNorm's statistics included.

    In the first 1/α steps it is the plain mean of the weights so far (α = 1/t at step t), so that it does not hold on
    to where learning began.

    Parameters
    ----------
    model : Model
        Where it begins.
    alpha : float
        α, in (0, 1]: the mean reaches back about 1/α steps.
    """

    def __init__(self, model: Model, alpha: float) -> None:
        self.model = frozen_copy(model)
        self.alpha = alpha
        self.steps = 0

    @torch.no_grad()
    def follow(self, model: Model) -> None:
        """Move a share α towards the learning model."""
        self.steps += 1
        alpha, theirs = max(self.alpha, 1 / self.steps), model.state_dict()
        for name, mine in self.model.state_dict().items():
            if mine.is_floating_point():
                mine.lerp_(theirs[name], alpha)
            else:
                mine.copy_(theirs[name])

    def grow(self, model: Model) -> None:
        """Take over the rows that the learning model's head has grown."""
        for mine, theirs in zip(self.model.head.parameters(), model.head.parameters()):
            mine.data = torch.cat([mine.data, theirs.data[len(mine) :]])

    def changed(self) -> None:
        """Weights or memory have changed: what predictions rest on is computed anew when one is wanted."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, and how many steps they followed."""
        return self.model.state_dict() | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; the head has grown already."""
        self.model.load_state_dict({name: tensor for name, tensor in state.items() if name != "steps"})
        self.steps = int(state["steps"])
        self.changed()
