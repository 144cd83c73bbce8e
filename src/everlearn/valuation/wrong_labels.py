"""Which labels are likely wrong: those that mislead the others and that the nearest others vote against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from everlearn.valuation.leave_one_out import LeaveOneOut, leave_one_out

_OUTVOTED = 1 / 3  # of the suggested label's votes a flagged sample's own label has less


@dataclass(frozen=True)
class WrongLabels:
    """Samples ranked by how little speaks for their labels.

    Parameters
    ----------
    score : Tensor
        ``[N]``: value + support, each over its standard deviation; the lowest are the likeliest wrong.
    flagged : Tensor
        ``[N]`` bools: of negative value, with less than a third of the votes that another label has.
    judged : LeaveOneOut
        What the score rests on.
    """

    score: Tensor
    flagged: Tensor
    judged: LeaveOneOut


def wrong_labels(features: Tensor, labels: Tensor, k: int = 20) -> WrongLabels:
    """Judge all labels by leave-one-out KNN-Shapley values over directions of centred features.

    Parameters
    ----------
    features, labels : Tensor
        ``[N, D]`` floating point and ``[N]`` integers.
    k : int
        Neighbours that vote.

    Raises
    ------
    SettingError
        If k < 1 or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> noise = torch.rand(24, 2, generator=torch.Generator().manual_seed(0))
    >>> features = torch.eye(2).repeat(12, 1) + 0.1 * noise
    >>> labels = torch.tensor([0, 1]).repeat(12)
    >>> labels[4] = 1
    >>> found = wrong_labels(features, labels, k=5)
    >>> found.flagged.nonzero().flatten().tolist(), int(found.judged.suggested[4])
    ([4], 0)
    """
    judged = leave_one_out(directions(features) if features.ndim == 2 else features, labels, k)
    outvoted = judged.support < _OUTVOTED * judged.suggested_support
    return WrongLabels(
        _scaled(judged.value) + _scaled(judged.support),
        outvoted & (judged.suggested != labels) & (judged.value < 0),
        judged,
    )


def directions(features: Tensor) -> Tensor:
    """Features ``[N, D]`` minus their mean, of length 1: what neighbours are compared by.

    Examples
    --------
    >>> import torch
    >>> directions(torch.tensor([[0.0, 0.0], [4.0, 0.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    return F.normalize(features - features.mean(0), dim=1) if len(features) else features


def _scaled(x: Tensor) -> Tensor:
    x = x.double()
    spread = x.std(correction=0) if len(x) else x.new_zeros(())
    return x / spread if spread > 0 else x
