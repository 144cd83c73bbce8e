"""Exact KNN-Shapley values for regression: how much each measured sample adds to a nearest-neighbour estimate.

Jia et al. 2019, *Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms* (arXiv 1908.08619), the
theorem for unweighted KNN regression, here in a form that holds for every K and N:

with candidates sorted from near to far, targets y_i, the wanted value y, and
g(m) = J (J + 1) / (2 (m + 1) (m + 2)), J = min(K − 1, m + 1), the chance that another candidate of m + 2 is among the
K − 1 that share the estimate with the one looked at,

    s_i − s_{i+1} = (y_{i+1} − y_i)/K · { min(K, i)/i · [(y_i + y_{i+1})/K − 2 y]
                                          + 2/K · [ g(i − 2) Σ_{l<i} y_l + Σ_{l>i+1} g(l − 3) y_l ] }
    s_N = −y_N/K · { M/N · (y_N/K − 2 y) + M (M − 1) / (K N (N − 1)) · Σ_{l<N} y_l },   M = min(K, N)

Letters: E evaluation points, N candidates, D feature dimensions, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.valuation.knn_shapley import nearest_order

_CHUNK_BYTES = 256 * 2**20
_BYTES_PER_PAIR = 96  # distance, order, targets and some eight running sums of one (evaluation, candidate) pair


def knn_shapley_regression(
    eval_features: Tensor,
    eval_targets: Tensor,
    features: Tensor,
    targets: Tensor,
    k: int = 3,
    *,
    max_bytes: int = _CHUNK_BYTES,
) -> Tensor:
    r"""Shapley value of every candidate for the estimate at every evaluation point, exact, in :math:`O(E N \log N)`.

    A coalition S is worth v(S) = −(1/K · Σ of the targets of its K nearest − y)²; the empty one −y². Centre the targets
    (subtract their mean from all, the evaluation points' too) to let the empty coalition stand for the mean.

    Parameters
    ----------
    eval_features, eval_targets : Tensor
        ``[E, D]`` and ``[E]`` floating point.
    features, targets : Tensor
        ``[N, D]`` and ``[N]`` of the candidates.
    k : int
        Neighbours that are averaged, 1 or more; may exceed N.
    max_bytes : int
        Evaluation points are taken in chunks that keep the working memory below this.

    Returns
    -------
    Tensor
        ``[E, N]``, double precision; each row sums to v(all candidates) − v(none). Positive: the candidate pulls the
        estimate towards the wanted value.

    Raises
    ------
    SettingError
        If k < 1 or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [2.0]])
    >>> knn_shapley_regression(torch.tensor([[0.1]]), torch.tensor([1.0]), line, torch.tensor([1.0, 0.0, 1.0]), k=1)
    tensor([[ 0.8333, -0.1667,  0.3333]], dtype=torch.float64)
    """
    _check(eval_features, eval_targets, features, targets, k)
    n = len(features)
    values = torch.zeros(len(eval_features), n, dtype=torch.float64, device=features.device)
    if n == 0 or len(eval_features) == 0:
        return values
    wanted, known = eval_targets.double(), targets.double()
    rows = max(1, max_bytes // (_BYTES_PER_PAIR * n))
    for start in range(0, len(eval_features), rows):
        part = slice(start, start + rows)
        order = nearest_order(eval_features[part], features)
        s_EN = _values(known[order], wanted[part, None], k)
        values[part] = torch.empty_like(s_EN).scatter_(1, order, s_EN)
    return values


def _values(y_EN: Tensor, y_E1: Tensor, k: int) -> Tensor:
    """Values of candidates sorted from near to far."""
    n = y_EN.shape[1]
    m = min(k, n)
    others = y_EN[:, :-1].sum(1, keepdim=True)
    pairs = m * (m - 1) / (k * n * max(n - 1, 1))
    s_last = -y_EN[:, -1:] / k * (m / n * (y_EN[:, -1:] / k - 2 * y_E1) + pairs * others)
    i = torch.arange(1, n, dtype=torch.float64, device=y_EN.device)
    here, after = y_EN[:, :-1], y_EN[:, 1:]
    nearer = here.cumsum(1) - here  # Σ_{l<i} y_l
    weighted = torch.cat([torch.zeros_like(y_EN[:, :2]), _shared(i[:-1] - 1, k) * y_EN[:, 2:]], 1)  # g(l − 3) y_l
    farther = weighted.flip(1).cumsum(1).flip(1)  # Σ_{l≥i} of it
    farther = torch.cat([farther[:, 2:], torch.zeros_like(y_EN[:, :1])], 1)  # Σ_{l>i+1}
    both = _shared(i - 2, k) * nearer + farther
    steps = (after - here) / k * (i.clamp(max=k) / i * ((here + after) / k - 2 * y_E1) + 2 / k * both)
    return torch.cat([steps, s_last], 1).flip(1).cumsum(1).flip(1)


def _shared(m: Tensor, k: int) -> Tensor:
    """g(m); nothing is nearer than the first, whose m of −1 therefore counts nothing."""
    j = (m + 1).clamp(max=k - 1)
    return j * (j + 1) / (2 * (m + 1) * (m + 2)).clamp(min=1)


def _check(eval_features: Tensor, eval_targets: Tensor, features: Tensor, targets: Tensor, k: int) -> None:
    if k < 1:
        raise SettingError(f"k is {k}; expected 1 or more neighbours")
    if eval_features.ndim != 2 or features.ndim != 2 or eval_features.shape[1] != features.shape[1]:
        shapes = f"{tuple(eval_features.shape)} and {tuple(features.shape)}"
        raise SettingError(f"features are {shapes}; expected [E, D] and [N, D] with the same D")
    if eval_targets.shape != (len(eval_features),) or targets.shape != (len(features),):
        lengths = f"{tuple(eval_targets.shape)} and {tuple(targets.shape)} targets"
        raise SettingError(
            f"{lengths} for {len(eval_features)} and {len(features)} features; expected one target for each"
        )
