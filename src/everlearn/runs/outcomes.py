"""How sure and how right a learner is on held-out samples, as processes that learn together find it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.data import Stream, load
from everlearn.learners import Learner


def accuracy(learner: Learner, stream: Stream, indices: NDArray[np.int64], chunk: int = 1000) -> float:
    """Share of held-out samples whose class is predicted; samples that cannot be read are left out.

    Processes that learn together share the work; all call it.
    """
    _, right = outcomes(learner, stream, indices, chunk)
    return int(right.sum()) / len(right) if len(right) else 0.0


def outcomes(learner: Learner, stream: Stream, indices: NDArray[np.int64], chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """How sure each prediction of held-out samples is, float32 ``[n]``, and whether it is right, bool ``[n]``.

    As `accuracy` has it.
    """
    learner.ready()
    sure, right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    mine = indices[learner.group.rank :: learner.group.size]
    for start in range(0, len(mine), chunk):
        inputs, _, kept = load(stream.source, mine[start : start + chunk])
        if len(kept):
            said = learner.predict(inputs)
            sure.append(said.confidence.float().cpu())
            right.append(said.labels.cpu() == stream.labels(kept))
    found = learner.group.gather(torch.stack([torch.cat(sure), torch.cat(right).float()], 1))
    return found[:, 0], found[:, 1] > 0
