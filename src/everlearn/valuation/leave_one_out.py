"""Leave-one-out KNN-Shapley: each sample judged by all the others, as an evaluation point and as a candidate.

The values are those of Jia et al. 2019 (arXiv 1908.08619) with every sample in turn as the evaluation point and all
others as candidates, in one pass over the pairs.

Letters: N samples, D feature dimensions, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.valuation.knn_shapley import accumulate, check_features, hard_terms, nearest_order

_CHUNK_BYTES = 256 * 2**20
_BYTES_PER_PAIR = 48


@dataclass(frozen=True)
class LeaveOneOut:
    """What all samples say of each, ``[N]`` each.

    Parameters
    ----------
    value : Tensor
        Mean of the sample's Shapley value over all others as evaluation points, float64: what it adds to telling them
        right; negative where it misleads.
    support : Tensor
        Share of its K nearest others that have its label: how far they vote for it.
    suggested : Tensor
        The label that most of its K nearest others have, of equals the nearer one's; its own where there are none.
    suggested_support : Tensor
        Share of its K nearest others that have the suggested label.
    nearest : Tensor
        Index of its nearest other, −1 where there is none.
    distance : Tensor
        Euclidean, to the nearest other; infinite where there is none.
    """

    value: Tensor
    support: Tensor
    suggested: Tensor
    suggested_support: Tensor
    nearest: Tensor
    distance: Tensor


def leave_one_out(features: Tensor, labels: Tensor, k: int = 5, *, max_bytes: int = _CHUNK_BYTES) -> LeaveOneOut:
    r"""Judge every sample by all the others, exactly, in :math:`O(N^2 \log N)` time and bounded memory.

    Parameters
    ----------
    features, labels : Tensor
        ``[N, D]`` floating point and ``[N]`` integers.
    k : int
        Neighbours that vote, 1 or more; may exceed N.
    max_bytes : int
        Evaluation points are taken in chunks that keep the working memory below this.

    Raises
    ------
    SettingError
        If k < 1 or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> found = leave_one_out(torch.tensor([[0.0], [0.1], [0.2], [0.3]]), torch.tensor([1, 1, 0, 1]), k=3)
    >>> int(found.value.argmin()), found.support.tolist()[2], int(found.suggested[2])
    (2, 0.0, 1)
    """
    check_features(features, labels, features, labels)
    if k < 1:
        raise SettingError(f"k is {k}; expected 1 or more neighbours")
    n = len(features)
    value = torch.zeros(n, dtype=torch.float64, device=features.device)
    support, found = value.float(), value.float()
    suggested, nearest = labels.clone(), torch.full_like(labels, -1)
    distance = torch.full((n,), torch.inf, device=features.device)
    if n > 1:
        factors, last = hard_terms(n - 1, k, support)
        for part in torch.arange(n, device=features.device).split(max(1, max_bytes // (_BYTES_PER_PAIR * n))):
            order = _others(nearest_order(features[part], features), part)
            m = (labels[order] == labels[part, None]).float()
            s = accumulate(m, factors, m[:, -1] * last)
            value.index_add_(0, order.flatten(), s.flatten().double())
            votes = labels[order[:, :k]]
            support[part] = m[:, :k].sum(1) / k
            suggested[part], found[part] = _majority(votes, k)
            nearest[part] = order[:, 0]
            distance[part] = (features[part] - features[order[:, 0]]).norm(dim=1).to(distance.dtype)
    return LeaveOneOut(value / max(n - 1, 1), support, suggested, found, nearest, distance)


def _others(order: Tensor, rows: Tensor) -> Tensor:
    """``[E, N − 1]``: the order without the row's own index, wherever a twin has pushed it."""
    return order[order != rows[:, None]].reshape(len(order), -1)


def _majority(votes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The most frequent of each row ``[E, k]``, the earlier of equals, and its share of k."""
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)
    best = counts.argmax(1, keepdim=True)  # the first of the largest
    return votes.gather(1, best)[:, 0], counts.gather(1, best)[:, 0] / k
