"""Do reasons change while a stream goes on? Maps of the same held-out samples, when their task was learned and later.

Ebrahimi et al. 2021, *Remembering for the Right Reasons* (arXiv 2010.01528), who show that maps drift as accuracy is
forgotten. As with forgetting, the last task, which nothing has followed, does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.errors import SettingError


@dataclass(frozen=True)
class ExplanationDrift:
    """Means over the tasks before the last: of the distance, 0 to 1, and of the correlation, −1 to 1 (NaN if none)."""

    distance: float
    correlation: float


def explanation_drift(learned: Sequence[Tensor], last: Sequence[Tensor]) -> ExplanationDrift:
    """How far the maps of each task's held-out samples have moved at the end of the stream.

    Parameters
    ----------
    learned, last : sequence of Tensor
        For each task the maps ``[n, 1, H, W]`` of its samples, for the same classes: when it had just been learned, and
        at the end.

    Raises
    ------
    SettingError
        If there are fewer than two tasks, or the maps are not of the same samples.

    Examples
    --------
    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> explanation_drift([left, left, right], [right, left, left])
    ExplanationDrift(distance=0.5, correlation=0.0)
    """
    if len(learned) < 2 or len(learned) != len(last):
        found = f"{len(learned)} and {len(last)}"
        raise SettingError(f"maps are of {found} tasks; expected two tasks or more, as many now as then")
    pairs = list(zip(learned, last))[:-1]
    distance = torch.stack([map_distance(a, b).mean() for a, b in pairs]).mean()
    correlation = torch.stack([map_correlation(a, b).nanmean() for a, b in pairs]).nanmean()
    return ExplanationDrift(float(distance), float(correlation))


def map_distance(before: Tensor, after: Tensor) -> Tensor:
    """Half the L1 distance between the maps' shares of energy: the share that has moved.

    Parameters
    ----------
    before, after : Tensor
        ``[n, 1, H, W]``; negative values count as none.

    Returns
    -------
    Tensor
        ``[n]``, 0 for the same map at any scale, 1 for maps that do not overlap, or where one of two has no energy.

    Examples
    --------
    >>> map_distance(torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0]]]]))
    tensor([0.2500])
    """
    _check(before, after)
    a, b = _shares(before), _shares(after)
    one_is_empty = a.any(1) != b.any(1)
    return torch.where(one_is_empty, 1.0, (a - b).abs().sum(1) / 2).float()


def map_correlation(before: Tensor, after: Tensor) -> Tensor:
    """Pearson's correlation over pixels, ``[n]``; NaN where a map is constant.

    Examples
    --------
    >>> map_correlation(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[5.0, 3.0, 1.0]]]]))
    tensor([-1.])
    """
    _check(before, after)
    a, b = (x.flatten(1).double() - x.flatten(1).double().mean(1, keepdim=True) for x in (before, after))
    norm = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norm > 0, (a * b).sum(1) / norm, torch.nan).float()


def _shares(maps: Tensor) -> Tensor:
    energy = maps.clamp(min=0).flatten(1).double()
    total = energy.sum(1, keepdim=True)
    return energy / torch.where(total > 0, total, 1.0)


def _check(before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or before.ndim != 4 or before.shape[1] != 1:
        found = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise SettingError(f"maps before and after are {found}; expected [n, 1, H, W] of the same samples")
