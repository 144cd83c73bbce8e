"""A model as it was: the teacher of methods that distil from the past."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from everlearn.models import Model


def frozen_copy(model: Model) -> Model:
    """A copy that is never trained, in evaluation mode.

    Examples
    --------
    >>> from everlearn.models import build_model
    >>> teacher = frozen_copy(build_model("slim_resnet18", channels=1, size=8))
    >>> teacher.training, any(p.requires_grad for p in teacher.parameters())
    (False, False)
    """
    return copy.deepcopy(model).eval().requires_grad_(False)


def restored_copy(model: Model, state: dict[str, Tensor]) -> Model:
    """A frozen copy with the weights of a state, whose head may have fewer rows than the model's.

    Examples
    --------
    >>> from everlearn.models import build_model
    >>> model = build_model("slim_resnet18", channels=1, size=8)
    >>> before = model.state_dict()
    >>> model.head.grow(2, torch.Generator())
    >>> restored_copy(model, before).head.n_classes
    0
    """
    copied = frozen_copy(model)
    for name, parameter in copied.head.named_parameters():
        parameter.data = torch.empty_like(state[f"head.{name}"], device=parameter.device)
    copied.load_state_dict(state)
    return copied
