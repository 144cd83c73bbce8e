"""What a learner gives back: a step's report and a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """What one step did: the learner's step number, the loss (a tensor, read when wanted) and the samples taken in."""

    step: int
    loss: Tensor
    samples: int


@dataclass(frozen=True)
class Prediction:
    """Probabilities ``[n, C]`` over the classes seen so far, in order of discovery, and the classes' label codes."""

    probabilities: Tensor
    codes: list[int]

    @property
    def labels(self) -> Tensor:
        """``[n]`` label codes of the most probable classes."""
        return torch.tensor(self.codes, device=self.probabilities.device)[self.probabilities.argmax(1)]

    @property
    def confidence(self) -> Tensor:
        """``[n]`` probabilities of the most probable classes."""
        return self.probabilities.amax(1)
