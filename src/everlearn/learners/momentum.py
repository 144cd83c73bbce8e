"""The momentum teacher: a slow copy of the model that its own training distils from.

Michel, Wang, Xiao, Yamasaki 2024, *Rethinking Momentum Knowledge Distillation in Online Continual Learning* (ICML 2024,
arXiv 2309.02870).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.learners.follower import Follower
from everlearn.models import Model


class MomentumTeacher(Follower):
    """A teacher T that follows the student S, as a `Follower`.

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
        super().__init__(student, alpha)
        self.weight, self.temperature = weight, temperature
        self._mean: dict[str, Tensor] | None = None

    def loss(self, taught: Tensor, logits: Tensor) -> Tensor:
        """λ · mean over views of KL(T(view) ‖ S): logits ``[views · n, C]`` of T, ``[n, C]`` of the student S."""
        log_T = (taught / self.temperature).log_softmax(1)
        log_S = (logits / self.temperature).log_softmax(1).repeat(len(taught) // max(1, len(logits)), 1)
        return self.weight * F.kl_div(log_S, log_T, reduction="batchmean", log_target=True)

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
