"""What stands by memory's slots in a learner's state: rows that go where their samples go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from everlearn.learners.state import state_of

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner


def rows_of(state: dict[str, Tensor], learner: Learner, slots: Tensor) -> dict[str, Tensor]:
    """The part of a state that stands by slots, for some of them: samples, and what rule and reasons keep beside."""
    names = [f"memory.{name}" for name in ("inputs", "targets", "ids", "steps")]
    names += [f"rule.{name}" for name in learner.slotwise]
    names += [name for name in state if name.startswith("reasons.")]
    return {name: state[name][slots] for name in names}


def without(learner: Learner, slots: Tensor) -> dict[str, Tensor]:
    """A learner's state without the samples in some slots; the others close up, in the same order."""
    state = state_of(learner)
    kept = torch.ones(learner.memory.size, dtype=torch.bool, device=learner.device)
    kept[slots] = False
    state |= rows_of(state, learner, kept)
    state["memory.places"] = state["memory.places"][kept]
    state["memory.known"][1] = len(state["memory.ids"])
    return state
