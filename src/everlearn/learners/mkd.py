"""MKD: experience replay that distils from a momentum teacher.

Michel, Wang, Xiao, Yamasaki 2024, *Rethinking Momentum Knowledge Distillation in Online Continual Learning* (ICML 2024,
arXiv 2309.02870).
"""

from __future__ import annotations

from typing import Any

import torch

from everlearn.learners.er import ER
from everlearn.models import Model


class MKD(ER):
    """L = L_ER(aug x) + λ/2 KL(T(x) ‖ S(aug x)) + λ/2 KL(T(aug x) ‖ S(aug x)).

    The mean of T's and S's weights predicts. The teacher T is a moving average of the student S
    (`MomentumTeacher`). This is ER with the paper's settings; around another method the same distillation is its
    setting ``mkd``, as in ``ERACE(model, mkd=5.5)``.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    mkd : float
        λ.
    augment : str, optional
        The second view; None distils from the one view there is.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        mkd: float = 5.5,
        augment: str | None = "resized_crop,flip,colour,grey",
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, mkd=mkd, augment=augment, **settings)
