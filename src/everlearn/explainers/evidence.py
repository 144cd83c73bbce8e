"""Evidence: the remembered samples that speak for and against one prediction.

Each remembered sample's exact KNN-Shapley value with the prediction as the one evaluation point (arXiv 1908.08619):
its share in how far the nearest remembered cases agree with the predicted class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.learners.learner import Learner
from everlearn.valuation import knn_shapley


@dataclass(frozen=True)
class Evidence:
    """One remembered sample and what it says of one prediction.

    Parameters
    ----------
    id : int
        The sample's id within its run.
    code : int
        Its label code.
    value : float
        Its KNN-Shapley value: above 0 it speaks for the class, below 0 against. Over all of memory the values sum to
        the share of the k nearest samples that have the class.
    step : int
        The learner's step at which it was learned.
    distance : float
        Euclidean, between its features and the explained picture's.
    picture : Tensor
        ``[C, H, W]`` uint8 on the CPU.
    """

    id: int
    code: int
    value: float
    step: int
    distance: float
    picture: Tensor


def evidence(
    learner: Learner, inputs: Tensor, target: Tensor, top: int = 3, k: int | None = None
) -> list[list[Evidence]]:
    """The strongest evidence for and against a class, for each input.

    Memory's features are computed once for all inputs.

    Parameters
    ----------
    learner : Learner
        With a memory.
    inputs : Tensor
        ``[n, C, H, W]`` uint8, or normalised.
    target : Tensor
        ``[n]`` class indices (positions in ``learner.classes.codes``).
    top : int
        At most so many samples for, and as many against.
    k : int, optional
        Neighbours that vote; by default the learner's own k, or 3.

    Returns
    -------
    list of list of Evidence
        For each input by falling value: those for (value > 0), then those against (value < 0), the strongest last.
        A sample of value 0 is no evidence. Empty where memory is.

    Raises
    ------
    SettingError
        If top < 1 or k < 1.
    """
    if top < 1:
        raise SettingError(f"top is {top}; expected 1 or more remembered samples")
    k = int(getattr(learner, "k", 3)) if k is None else k
    memory = learner.memory
    if memory.size == 0 or len(inputs) == 0:
        return [[] for _ in range(len(inputs))]
    held = torch.arange(memory.size, device=memory.device)
    features = learner.features(memory.take(held).inputs)
    queries = learner.features(inputs)
    classes = memory.targets[: memory.size].to(features.device)
    values = knn_shapley(queries, target.to(features.device), features, classes, k)
    found = []
    for query, row in zip(queries, values):
        order = row.argsort(descending=True, stable=True)
        slots = [int(s) for s in order[:top] if row[s] > 0]
        slots += [int(s) for s in order[-top:] if row[s] < 0]
        found.append([_of_slot(learner, s, float(row[s]), float((features[s] - query).norm())) for s in slots])
    return found


def _of_slot(learner: Learner, slot: int, value: float, distance: float) -> Evidence:
    memory = learner.memory
    picture = memory.take(torch.tensor([slot], device=memory.device)).inputs[0].cpu().clone()
    code = learner.classes.codes[int(memory.targets[slot])]
    return Evidence(int(memory.ids[slot]), code, value, int(memory.steps[slot]), distance, picture)
