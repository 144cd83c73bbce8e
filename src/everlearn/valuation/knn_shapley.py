"""Exact KNN-Shapley values: how much each remembered sample adds to a nearest-neighbour vote.

Jia et al. 2019, *Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms* (arXiv 1908.08619); the
soft-label utility is from Wang & Jia 2023, *A Note on "Efficient Task-Specific Data Valuation ..."* (arXiv 2304.04258).

Letters: E evaluation points, N candidates, D feature dimensions, C classes, K neighbours; ``m_EN`` is 1 where the i-th
nearest candidate has the evaluation point's label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.errors import SettingError

_CHUNK_BYTES = 256 * 2**20
_BYTES_PER_PAIR = 40  # distance, order, matches, differences and values of one (evaluation, candidate) pair


def knn_shapley(
    eval_features: Tensor,
    eval_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 3,
    *,
    utility: str = "hard",
    classes: int | None = None,
    max_bytes: int = _CHUNK_BYTES,
) -> Tensor:
    r"""Shapley value of every candidate for every evaluation point, exact, in :math:`O(E N \log N)`.

    Parameters
    ----------
    eval_features, eval_labels : Tensor
        ``[E, D]`` floating point and ``[E]`` integers.
    features, labels : Tensor
        ``[N, D]`` and ``[N]`` of the candidates.
    k : int
        Neighbours that vote, 1 or more; may exceed N.
    utility : {"hard", "soft"}
        What a coalition S is worth. Hard: matches among its K nearest, over K. Soft: over min(K, \|S\|), and 1/C for
        the empty one.
    classes : int, optional
        C for the soft utility; by default the number of distinct labels among candidates and evaluation points.
    max_bytes : int
        Evaluation points are taken in chunks that keep the working memory below this.

    Returns
    -------
    Tensor
        ``[E, N]``; each row sums to v(all candidates) − v(none), the efficiency axiom.

    Raises
    ------
    SettingError
        If k < 1, the utility is unknown, or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [2.0]])
    >>> knn_shapley(torch.tensor([[0.1]]), torch.tensor([1]), line, torch.tensor([1, 0, 1]), k=1)
    tensor([[ 0.8333, -0.1667,  0.3333]])
    """
    check_features(eval_features, eval_labels, features, labels)
    if k < 1:
        raise SettingError(f"k is {k}; expected 1 or more neighbours")
    if utility not in ("hard", "soft"):
        raise SettingError(f"utility is {utility!r}; expected 'hard' or 'soft'")
    n = len(features)
    values = eval_features.new_zeros(len(eval_features), n, dtype=torch.promote_types(features.dtype, torch.float32))
    if n == 0 or len(eval_features) == 0:
        return values
    if utility == "soft":
        if classes is None:
            classes = len(torch.unique(torch.cat([labels, eval_labels])))
        factors, last = _soft_terms(n, k, values)
    else:
        factors, last = hard_terms(n, k, values)
    rows = max(1, max_bytes // (_BYTES_PER_PAIR * n))
    for start in range(0, len(eval_features), rows):
        part = slice(start, start + rows)
        order = nearest_order(eval_features[part], features)
        m_EN = (labels[order] == eval_labels[part, None]).to(values.dtype)
        if utility == "soft":
            others = (m_EN.sum(1) - m_EN[:, -1]) / max(n - 1, 1)
            s_last = (m_EN[:, -1] - others) * last + (m_EN[:, -1] - 1 / classes) / n  # type: ignore[operator]
        else:
            s_last = m_EN[:, -1] * last
        s_EN = accumulate(m_EN, factors, s_last)
        values[part] = torch.empty_like(s_EN).scatter_(1, order, s_EN)
    return values


def mean_knn_shapley(
    eval_features: Tensor,
    eval_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 3,
    *,
    utility: str = "hard",
    classes: int | None = None,
    max_bytes: int = _CHUNK_BYTES,
) -> Tensor:
    """Mean of `knn_shapley` over the evaluation points, ``[N]`` float64: memory bounded also for millions of
    candidates.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [2.0]])
    >>> mean_knn_shapley(torch.tensor([[0.1], [1.9]]), torch.tensor([1, 1]), line, torch.tensor([1, 0, 1]), k=1).sum()
    tensor(1.0000, dtype=torch.float64)
    """
    if classes is None and utility == "soft":
        classes = len(torch.unique(torch.cat([labels, eval_labels])))
    total = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    rows = max(1, max_bytes // (_BYTES_PER_PAIR * max(len(features), 1)))
    for x, y in zip(eval_features.split(rows), eval_labels.split(rows)):
        total += knn_shapley(x, y, features, labels, k, utility=utility, classes=classes, max_bytes=max_bytes).sum(0)
    return total / max(len(eval_features), 1)


def nearest_order(queries: Tensor, features: Tensor) -> Tensor:
    """Candidates of each query from near to far: ``[E, N]`` indices; ties keep the candidates' order."""
    # Far from the origin squares would swallow differences. A median is a value that occurs: what tied still ties.
    centre = queries[:7].median(0).values.nan_to_num(0, 0, 0)
    queries, features = queries - centre, features - centre
    # ‖q − f‖² without ‖q‖², which does not change the order
    d = (features * features).sum(1) - 2 * queries @ features.T
    if d.device.type != "cpu" or d.dtype != torch.float32 or d.requires_grad:
        return torch.argsort(d, dim=1, stable=True)
    # One sort of whole numbers, half the time of an argsort: the float's bits above, the index below. IEEE floats sort
    # as sign and magnitude do; adding 0 makes −0 and 0 one. What is no number is far, as in an argsort.
    bits = (d + 0.0).nan_to_num_(torch.inf, torch.inf, -torch.inf).view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = (bits.to(torch.int64) << 32) | torch.arange(d.shape[1])
    keys.numpy().sort(axis=1)
    return keys & 0xFFFFFFFF


def hard_terms(n: int, k: int, like: Tensor) -> tuple[Tensor, float]:
    """min(K, i) / (i K) for i = 1 … N−1, and the weight of s_N."""
    i = torch.arange(1, n, dtype=torch.float64, device=like.device)
    return (i.clamp(max=k) / (i * k)).to(like.dtype), min(k, n) / (n * k)


def _soft_terms(n: int, k: int, like: Tensor) -> tuple[Tensor, float]:
    """[Σ_{j≤K'} 1/j + (min(i, K')(N−1)/i − K')/K'] / (N−1) for i = 1 … N−1, and Σ_{j<K'} 1/(j+1) / N."""
    k_ = min(k, n)
    harmonic = sum(1 / j for j in range(1, k_ + 1))
    i = torch.arange(1, n, dtype=torch.float64, device=like.device)
    factors = (harmonic + (i.clamp(max=k_) * (n - 1) / i - k_) / k_) / max(n - 1, 1)
    return factors.to(like.dtype), (harmonic - 1) / n


def accumulate(m_EN: Tensor, factors: Tensor, s_last: Tensor) -> Tensor:
    """s_i = s_{i+1} + (m_i − m_{i+1}) · factor_i, from the farthest to the nearest."""
    steps = (m_EN[:, :-1] - m_EN[:, 1:]) * factors
    return torch.cat([steps, s_last[:, None]], 1).flip(1).cumsum(1).flip(1)


def check_features(eval_features: Tensor, eval_labels: Tensor, features: Tensor, labels: Tensor) -> None:
    """Refuse shapes that do not fit."""
    if eval_features.ndim != 2 or features.ndim != 2 or eval_features.shape[1] != features.shape[1]:
        shapes = f"{tuple(eval_features.shape)} and {tuple(features.shape)}"
        raise SettingError(f"features are {shapes}; expected [E, D] and [N, D] with the same D")
    if len(eval_labels) != len(eval_features) or len(labels) != len(features):
        lengths = f"{len(eval_labels)} and {len(labels)} labels for {len(eval_features)} and {len(features)} features"
        raise SettingError(f"{lengths}; expected one label for each")
