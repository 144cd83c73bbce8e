"""Threshold KNN-Shapley: neighbours within a radius vote; exact in linear time.

Wang, Zhu, Wang, Jia, Mittal 2023, *Threshold KNN-Shapley: A Linear-Time and Privacy-Friendly Approach to Data
Valuation* (NeurIPS 2023, arXiv 2308.15709).
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.valuation.knn_shapley import check_features

_CHUNK_BYTES = 256 * 2**20
_BYTES_PER_PAIR = 24


def threshold_knn_shapley(
    eval_features: Tensor,
    eval_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    radius: float,
    *,
    classes: int | None = None,
    max_bytes: int = _CHUNK_BYTES,
) -> Tensor:
    r"""Shapley value of every candidate for every evaluation point, exact, in :math:`O(E N)`: nothing is sorted.

    The worth of a coalition is the share of matches among its members within the radius, 1/C where there is none. With
    n candidates within the radius, of which c match, :math:`p_i = (c - m_i)/(n - 1)` and
    :math:`H_n = \sum_{j \le n} 1/j`,

    .. math:: s_i = \frac{1}{n} \left[ m_i - \frac{1}{C} + (m_i - p_i)(H_n - 1) \right]

    within the radius, and 0 outside.

    Parameters
    ----------
    eval_features, eval_labels, features, labels : Tensor
        ``[E, D]``, ``[E]``, ``[N, D]``, ``[N]``.
    radius : float
        Euclidean, above 0; a candidate at exactly this distance is inside, to rounding.
    classes : int, optional
        C; by default the number of distinct labels.
    max_bytes : int
        Evaluation points are taken in chunks that keep the working memory below this.

    Returns
    -------
    Tensor
        ``[E, N]``; each row sums to c/n − 1/C, or to 0 where no candidate is within the radius.

    Raises
    ------
    SettingError
        If the radius is not above 0 or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [5.0]])
    >>> threshold_knn_shapley(torch.tensor([[0.1]]), torch.tensor([1]), line, torch.tensor([1, 0, 1]), radius=2.0)
    tensor([[ 0.5000, -0.5000,  0.0000]])
    """
    check_features(eval_features, eval_labels, features, labels)
    if not radius > 0:
        raise SettingError(f"radius is {radius}; expected a distance above 0")
    values = eval_features.new_zeros(
        len(eval_features), len(features), dtype=torch.promote_types(features.dtype, torch.float32)
    )
    if values.numel() == 0:
        return values
    if classes is None:
        classes = len(torch.unique(torch.cat([labels, eval_labels])))
    harmonic = torch.zeros(len(features) + 1, dtype=torch.float64, device=features.device)
    harmonic[1:] = (1 / torch.arange(1, len(features) + 1, dtype=torch.float64, device=features.device)).cumsum(0)
    norms = (features * features).sum(1)
    rows = max(1, max_bytes // (_BYTES_PER_PAIR * len(features)))
    for start in range(0, len(eval_features), rows):
        q = eval_features[start : start + rows]
        squared = norms - 2 * q @ features.T + (q * q).sum(1, keepdim=True)
        inside = squared <= radius**2
        m = (labels == eval_labels[start : start + rows, None]) & inside
        n, c = inside.sum(1, keepdim=True), m.sum(1, keepdim=True)
        h = (harmonic[n] - 1).clamp(min=0)
        # m_i is 0 or 1, so there are two values a row
        of_match, of_other = (
            ((m_i - 1 / classes) + (m_i - (c - m_i) / (n - 1).clamp(min=1)) * h) / n.clamp(min=1) for m_i in (1, 0)
        )
        values[start : start + rows] = torch.where(inside, torch.where(m, of_match, of_other), 0.0)
    return values
