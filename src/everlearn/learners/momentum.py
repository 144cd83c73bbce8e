"""The momentum teacher: a slow copy of the model that its own training distils from.

Michel, Wang, Xiao, Yamasaki 2024, *Rethinking Momentum Knowledge Distillation in Online Continual Learning* (ICML 2024,
arXiv 2309.02870).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.models import Model


class MomentumTeacher:
    """A teacher T that follows the student S: after every step θ_T ← (1 − α) θ_T + α θ_S.

    In the first 1/α steps it is the plain mean of the student's weights so far (α = 1/t at step t), so that it does not
    hold on to where training began.

    Parameters
    ----------
    student : Model
        Where the teacher begins.
    weight : float
        λ of the distillation.
    alpha : float
        α, how fast the teacher follows.
    temperature : float
        τ; both sides' logits are divided by it.

    Examples
    --------
    >>> import torch
    >>> from everlearn.models import build_model
    >>> student = build_model("slim_resnet18", channels=1, size=8)
    >>> teacher = MomentumTeacher(student, weight=5.5)
    >>> same = torch.tensor([[1.0, 2.0]])
    >>> teacher.loss(same, same).item()
    0.0
    """

    def __init__(self, student: Model, weight: float = 5.5, alpha: float = 0.01, temperature: float = 4.0) -> None:
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.weight, self.alpha, self.temperature = weight, alpha, temperature
        self.steps = 0
        self._mean: dict[str, Tensor] | None = None

    def loss(self, taught: Tensor, logits: Tensor) -> Tensor:
        """λ · mean over views of KL(T(view) ‖ S): logits ``[views · n, C]`` of T, ``[n, C]`` of the student S."""
        log_T = (taught / self.temperature).log_softmax(1)
        log_S = (logits / self.temperature).log_softmax(1).repeat(len(taught) // max(1, len(logits)), 1)
        return self.weight * F.kl_div(log_S, log_T, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def follow(self, student: Model) -> None:
        """Move a share α towards the student, BatchNorm's statistics included."""
        self.steps += 1
        alpha, followed = max(self.alpha, 1 / self.steps), student.state_dict()
        for name, mine in self.model.state_dict().items():
            if mine.is_floating_point():
                mine.lerp_(followed[name], alpha)
            else:
                mine.copy_(followed[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, and how many steps it followed."""
        return self.model.state_dict() | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; the head has grown already."""
        self.model.load_state_dict({name: tensor for name, tensor in state.items() if name != "steps"})
        self.steps = int(state["steps"])

    def grow(self, student: Model) -> None:
        """Take over the rows that the student's head has grown."""
        for mine, theirs in zip(self.model.head.parameters(), student.head.parameters()):
            mine.data = torch.cat([mine.data, theirs.data[len(mine) :]])

    def changed(self) -> None:
        """The student has changed: its mean with the teacher is computed anew when wanted."""
        self._mean = None

    def means(self, student: Model) -> dict[str, Tensor]:
        """The mean of teacher's and student's weights, which predicts, by the names of the student's state."""
        if self._mean is None:
            theirs, mean = student.state_dict(), {}
            with torch.inference_mode(False), torch.no_grad():
                for name, mine in self.model.state_dict().items():
                    mean[name] = (
                        torch.lerp(mine, theirs[name], 0.5) if mine.is_floating_point() else theirs[name].clone()
                    )
                for name, parameter in student.named_parameters():
                    mean[name].requires_grad_(parameter.requires_grad)  # gradient attributions go through them
            self._mean = mean
        return self._mean
