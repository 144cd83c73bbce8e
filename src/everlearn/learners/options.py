"""Settings that combine with many methods."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.learners.augment import Augment
from everlearn.learners.losses import labels_trick, separated_softmax

LOSSES = ("softmax", "labels_trick", "separated")


@dataclass(frozen=True)
class Options:
    """What can be added to a method where its paper allows; a method names in ``takes`` what it allows.

    Parameters
    ----------
    loss : {"softmax", "labels_trick", "separated"}
        Cross-entropy over all classes seen; over those of the step's own samples (arXiv 1803.10123); or one softmax for
        classes of the current task and one for those before (arXiv 2003.13947), which needs task borders.
    iterations : int
        Steps on each incoming batch, with memory drawn anew for each (Aljundi et al. 2019, arXiv 1908.04742).
    augment : str, optional
        Names of `Augment`'s operations, joined by commas: ``"crop,flip"``.
    views : int
        How often each sample takes part in a step, augmented anew each time.
    review : float
        If above 0, a pass over memory at this share of the learning rate where a task ends (Castro et al. 2018, arXiv
        1807.09536; Mai et al. 2021, arXiv 2101.10423, take 0.1).
    mkd : float
        If above 0, λ of momentum distillation (arXiv 2309.02870, which takes 5.5); see `MomentumTeacher`.
    average : float
        If above 0, an average of the weights over about 1/average steps predicts (arXiv 1803.05407); see
        `AveragedModel`. Not with ``mkd``, which predicts by a mean of its own.
    rrr : float
        If above 0, weight of how far the maps of remembered samples drift (arXiv 2010.01528); see `reasons.py`.
    region : float
        If above 0, weight of the evidence outside the regions that samples bring with them; see `reasons.py`.
    frames : float
        If above 0, share of the samples with a region that a step shows in another one's surroundings; see `frames.py`.

    Examples
    --------
    >>> Options.of({"iterations": 2}, "ER", frozenset({"iterations"})).iterations
    2
    """

    loss: str = "softmax"
    iterations: int = 1
    augment: str | None = None
    views: int = 1
    review: float = 0.0
    mkd: float = 0.0
    average: float = 0.0
    rrr: float = 0.0
    region: float = 0.0
    frames: float = 0.0

    @classmethod
    def of(cls, settings: dict[str, Any], method: str, takes: frozenset[str]) -> Options:
        """Check settings by name; raises `SettingError` that names the first bad one."""
        known = {f.name: f.default for f in fields(cls)}
        for name, value in settings.items():
            if name not in known:
                raise SettingError(f"{method} has no setting {name!r}; of those all share there are {', '.join(known)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingError(f"{name} is {value}; expected a finite number")
            if name not in takes and value != known[name]:
                raise SettingError(
                    f"{method} does not combine with {name}; it allows {', '.join(sorted(takes)) or 'none'}"
                )
        options = cls(**settings)
        options._check()
        return options

    def _check(self) -> None:
        if self.loss not in LOSSES:
            raise SettingError(f"loss is {self.loss!r}; expected one of {', '.join(LOSSES)}")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise SettingError(f"iterations is {self.iterations}; expected 1 or more steps on each batch")
        if not isinstance(self.views, int) or self.views < 1 or (self.views > 1 and not self.augment):
            raise SettingError(f"views is {self.views}; expected 1 or more, and an augment to tell them apart if more")
        if not 0 <= self.review <= 1:
            raise SettingError(f"review is {self.review}; expected a share of the learning rate from 0 (none) to 1")
        if self.mkd < 0:
            raise SettingError(f"mkd is {self.mkd}; expected 0 (none) or more; the paper takes 5.5")
        if not 0 <= self.average <= 1 or (self.average and self.mkd):
            found = f"average is {self.average}" + (" beside mkd, which has its own" if self.mkd else "")
            raise SettingError(f"{found}; expected a share from 0 (none) to 1; 0.01 averages about 100 steps")
        if self.rrr < 0 or self.region < 0:
            raise SettingError(f"rrr is {self.rrr} and region {self.region}; expected 0 (none) or more for both")
        if not 0 <= self.frames <= 1:
            raise SettingError(f"frames is {self.frames}; expected a share of the samples from 0 (none) to 1")
        _ = self.augmentation  # a wrong name shows when the learner is built

    @cached_property
    def augmentation(self) -> Augment | None:
        """The augmentation that ``augment`` names."""
        return Augment.of(self.augment) if self.augment else None

    def cross_entropy(self, logits: Tensor, targets: Tensor, old: int) -> Tensor:
        """The chosen loss; ``old`` classes were known when the current task began."""
        if self.loss == "labels_trick":
            return labels_trick(logits, targets)
        if self.loss == "separated":
            return separated_softmax(logits, targets, old)
        return F.cross_entropy(logits, targets)
