"""Are probabilities what they say? Of predictions made with confidence p, a share p should be right."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.errors import SettingError


def calibration_error(probabilities: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Expected calibration error: Σ over bins of (share of predictions) · |accuracy − mean confidence|.

    Guo, Pleiss, Sun, Weinberger 2017, *On Calibration of Modern Neural Networks* (arXiv 1706.04599). Bins divide the
    confidence of the most probable class, (0, 1], into equal widths; each bin holds its upper edge.

    Parameters
    ----------
    probabilities : Tensor
        ``[n, C]``, rows that sum to 1.
    targets : Tensor
        ``[n]`` class indices; −1 for a class that has no column, which is always wrong.
    bins : int
        Number of bins.

    Returns
    -------
    float
        0 (calibrated) to 1.

    Raises
    ------
    SettingError
        If there is no prediction, the lengths differ, a row is no distribution, or bins < 1.

    Examples
    --------
    >>> import torch
    >>> p = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
    >>> round(calibration_error(p, torch.tensor([0, 0, 0, 0, 1])), 6)  # 4 of 5 are right
    0.0
    """
    _check(probabilities, targets, bins)
    confidence, predicted = probabilities.max(1)
    return calibration_of(confidence, predicted == targets, bins)


def calibration_of(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """`calibration_error` of predictions ``[n]`` made with this confidence, one or more, of which these were right."""
    confidence, right = confidence.double(), right.double()
    upper = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)[1:]
    which = torch.bucketize((confidence - 1e-9).clamp(0, 1), upper).clamp(max=bins - 1)  # an edge belongs below
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device).index_add_(0, which, right - confidence)
    return float(gap.abs().sum() / len(right))


def _check(probabilities: Tensor, targets: Tensor, bins: int) -> None:
    if bins < 1:
        raise SettingError(f"bins is {bins}; expected 1 or more")
    if probabilities.ndim != 2 or len(probabilities) != len(targets) or not len(targets):
        found = f"{tuple(probabilities.shape)} probabilities for {len(targets)} targets"
        raise SettingError(f"{found}; expected [n, classes] for n targets, one or more")
    sums = probabilities.double().sum(1)
    if bool(((sums - 1).abs() > 1e-3).any()) or bool((probabilities < 0).any()):
        worst = float(sums[(sums - 1).abs().argmax()])
        raise SettingError(f"a row of probabilities sums to {worst:.3f} or has one below 0; expected distributions")
