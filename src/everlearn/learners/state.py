"""A learner's state as tensors by name, and back to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from everlearn.learners.classes import Classes
from everlearn.learners.optimizer_state import flatten, unflatten

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner


def state_of(learner: Learner) -> dict[str, Tensor]:
    """Everything that decides what a learner does next, by ``part.name``."""
    parts = {
        "model": learner.model.state_dict(),
        "memory": learner.memory.state_dict(),
        "optimizer": flatten(learner.optimizer),
        "learner": {
            "codes": torch.tensor(learner.classes.codes, dtype=torch.int64),
            "generator": learner.generator.get_state(),
            "counts": torch.tensor([learner.step, learner.samples_seen]),
        },
    }
    if learner.task is not None:
        parts["learner"]["task"] = torch.tensor([learner.task, learner.old])
    parts |= {part: follower.state_dict() for part, follower in learner.followers().items()}
    if learner.reasons is not None:
        parts["reasons"] = learner.reasons.state_dict()
    parts["rule"] = learner.rule_state()
    return {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}


def restore(learner: Learner, state: dict[str, Tensor]) -> None:
    """Put back what `state_of` gave, into a learner built with the same settings."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    known = parts["learner"]
    learner.classes = Classes(known["codes"].tolist())
    learner.model.head.grow(len(learner.classes.codes), torch.Generator())
    learner.model.load_state_dict(parts["model"])
    learner.memory.load_state_dict(parts["memory"])
    unflatten(learner.optimizer, parts.get("optimizer", {}))
    learner.generator.set_state(known["generator"])
    learner.step, learner.samples_seen = known["counts"].tolist()
    learner.task, learner.old = known["task"].tolist() if "task" in known else (None, 0)
    for part, follower in learner.followers().items():
        follower.grow(learner.model)
        follower.load_state_dict(parts[part])
    if learner.reasons is not None:
        learner.reasons.load_state_dict(parts["reasons"])
    learner.forget_derived()
    learner.load_rule_state(parts.get("rule", {}))
