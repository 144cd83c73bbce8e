"""How far does a model of chest X-rays rest on what surrounds the lungs? Foreign frames, and parts alone."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from everlearn.bench.chest import Chest, in_frames_of, without
from everlearn.learners import Learner

_FRAMES = 3  # exchanged for each picture


def accuracies(learner: Learner, chest: Chest, seed: int) -> dict[str, Any]:
    """Balanced accuracy in per cent: as they are, in exchanged frames, with the frame or the lungs alone.

    ``follows`` is the share of exchanged pictures that are given the class of the frame. ``elsewhere`` is the share of
    each class among predictions for pictures of each class from the second set.
    """
    test, generator = chest.test, torch.Generator().manual_seed(seed)
    right: dict[str, Any] = {"test": balanced(learner, test.inputs, test.labels)}
    for shown, gone in (("frame", "lungs"), ("lungs", "frame")):
        right[f"{shown} alone"] = balanced(learner, without(test, gone), test.labels)
    exchanged, follows = [], []
    for _ in range(_FRAMES):
        other = _of_another_class(test.labels, generator)
        moved = in_frames_of(test, test.inputs[other])
        exchanged.append(balanced(learner, moved, test.labels))
        follows.append(float((_labels(learner, moved) == test.labels[other]).float().mean()))
    right["frames exchanged"] = statistics.mean(exchanged)
    right["follows"] = 100 * statistics.mean(follows)
    classes, there = len(chest.class_names), _labels(learner, chest.elsewhere.inputs)
    right["elsewhere"] = {
        chest.class_names[c]: [round(100 * float((there[of] == k).float().mean()), 1) for k in range(classes)]
        for c in range(classes)
        if (of := chest.elsewhere.labels == c).any()
    }
    return right


def balanced(learner: Learner, inputs: Tensor, labels: Tensor) -> float:
    """Mean over classes of the share that is recognised, in per cent."""
    right = _labels(learner, inputs) == labels
    return 100 * statistics.mean(float(right[labels == c].float().mean()) for c in labels.unique())


def _labels(learner: Learner, inputs: Tensor) -> Tensor:
    return learner.predict(colour(inputs), chunk=64).labels.cpu()


def colour(inputs: Tensor) -> Tensor:
    """``[n, 3, S, S]`` of grey pictures."""
    return inputs.expand(-1, 3, -1, -1)


def _of_another_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """``[n]`` positions: for each sample one of another class, every other class as often."""
    found = torch.zeros_like(labels)
    present = labels.unique().tolist()
    for i, label in enumerate(labels.tolist()):
        others = [c for c in present if c != label]
        c = others[int(torch.randint(len(others), (), generator=generator))]
        members = (labels == c).nonzero().flatten()
        found[i] = members[torch.randint(len(members), (), generator=generator)]
    return found
