"""What predicts: the learning model's weights, their average or a teacher's mean; by the head or by class means."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from everlearn.learners.averaged import remembered_batches
from everlearn.models import Model, NearestClassMean

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner


def weights_of(learner: Learner) -> dict[str, Tensor] | None:
    """Of the whole model by name, where it is not the learning model that predicts."""
    if learner.averaged is not None:
        batches = remembered_batches(learner.memory, learner.replay, learner.seed, learner.newest)
        return learner.averaged.weights(learner.model, map(learner.to_layout, batches), learner.group)
    return None if learner.teacher is None else learner.teacher.means(learner.model)


def features_of(learner: Learner, inputs: Tensor) -> Tensor:
    """Features ``[n, d]`` of the weights that predict, in whatever mode and precision is set."""
    x, weights = learner.to_layout(inputs), weights_of(learner)
    if weights is None:
        return learner.model.features(x)
    own = {name.removeprefix("backbone."): t for name, t in weights.items() if name.startswith("backbone.")}
    return functional_call(learner.model.backbone, own, (x,)).flatten(1)


def class_means(learner: Learner) -> NearestClassMean:
    """The means of memory's features by class, computed anew where something has changed."""
    if learner.means is None:
        memory = learner.memory
        learner.means = NearestClassMean(learner.model.feature_dim).to(learner.device)
        with torch.inference_mode(False):  # gradients may be wanted through them later
            held = memory.take(torch.arange(memory.size, device=learner.device)).inputs if memory.size else None
            features = torch.zeros(0, learner.model.feature_dim, device=learner.device)
            features = features if held is None else learner.features(held)
            targets = memory.targets[: memory.size]
            learner.means.fit(features, targets, len(learner.classes.codes), learner.group.total)
    return learner.means


def predicting_model(learner: Learner) -> Model:
    """The model; where other weights than its own predict, a copy that holds them."""
    with learner.evaluating(), learner.autocast():
        weights = weights_of(learner)
    if weights is None:
        return learner.model
    model = copy.deepcopy(learner.model)
    model.load_state_dict(weights)
    return model
