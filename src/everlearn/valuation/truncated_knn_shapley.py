"""KNN-Shapley values of the nearest candidates only, with a bound on what that leaves out: for millions of candidates.

Jia et al. 2019 (arXiv 1908.08619, section 4): a candidate at rank i changes the vote only if it is among the K nearest
of a coalition, so |s_i| ≤ 1/max(i, K). Values of the M nearest, taken as if the next one were worth nothing, are off
by at most 1/max(M, K), and so are those of all others, taken as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.valuation.knn_shapley import check_features

Search = Callable[[Tensor, int], Tensor]
_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Truncated:
    """Values ``[E, M]`` of the candidates ``indices [E, M]``, near to far; no value is off by more than ``error``."""

    indices: Tensor
    values: Tensor
    error: float


def truncated_knn_shapley(
    eval_features: Tensor,
    eval_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 3,
    *,
    nearest: int = 1000,
    search: Search | None = None,
    max_bytes: int = _CHUNK_BYTES,
) -> Truncated:
    """KNN-Shapley values (hard-label utility) of the ``nearest`` candidates of each evaluation point.

    Parameters
    ----------
    eval_features, eval_labels, features, labels : Tensor
        ``[E, D]``, ``[E]``, ``[N, D]``, ``[N]``.
    k : int
        Neighbours that vote, 1 or more.
    nearest : int
        M ≥ k; values of all others are taken as 0.
    search : callable, optional
        ``search(eval_features, M)`` gives ``[E, M]`` indices into ``features``, near to far: any nearest-neighbour
        library. By default an exact search in chunks. The bound holds for exact neighbours.
    max_bytes : int
        Bound on the working memory of the default search.

    Returns
    -------
    Truncated

    Raises
    ------
    SettingError
        If k or nearest is out of range, the search gives something else, or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [2.0]])
    >>> labels = torch.tensor([1, 0, 1])
    >>> found = truncated_knn_shapley(torch.tensor([[0.1]]), torch.tensor([1]), line, labels, k=1, nearest=2)
    >>> found.indices.tolist(), found.values.tolist(), found.error
    ([[0, 1]], [[1.0, 0.0]], 0.5)
    """
    check_features(eval_features, eval_labels, features, labels)
    if k < 1 or nearest < k:
        raise SettingError(f"k is {k} and nearest is {nearest}; expected 1 ≤ k ≤ nearest")
    n, m = len(features), min(nearest, len(features))
    dtype = torch.promote_types(features.dtype, torch.float32)
    if m == 0 or len(eval_features) == 0:
        return Truncated(
            labels.new_zeros(len(eval_features), m), features.new_zeros(len(eval_features), m).to(dtype), 0.0
        )
    indices = search(eval_features, m) if search else nearest_few(eval_features, features, m, max_bytes)
    if indices.shape != (len(eval_features), m):
        raise SettingError(f"the search gives {tuple(indices.shape)}; expected {(len(eval_features), m)} indices")
    matches = (labels[indices] == eval_labels[:, None]).to(dtype)
    i = torch.arange(1, m + 1, dtype=torch.float64, device=features.device)
    factors = (i.clamp(max=k) / (i * k)).to(dtype)
    last = matches[:, -1:] * (min(k, n) / (n * k)) if m == n else torch.zeros_like(matches[:, :1])
    steps = (matches[:, :-1] - matches[:, 1:]) * factors[:-1]
    values = torch.cat([steps, last], 1).flip(1).cumsum(1).flip(1)
    return Truncated(indices, values, 0.0 if m == n else 1 / max(m, k))


def nearest_few(queries: Tensor, features: Tensor, m: int, max_bytes: int = _CHUNK_BYTES) -> Tensor:
    """The m nearest candidates of each query, near to far: ``[E, m]`` indices, exact, in chunks of both."""
    rows = max(1, min(len(queries), max_bytes // (64 * m)))
    columns = max(m, max_bytes // (24 * rows))
    found = []
    for q in queries.split(rows):
        best = q.new_zeros(len(q), 0)
        index = torch.zeros(len(q), 0, dtype=torch.int64, device=q.device)
        for start in range(0, len(features), columns):
            f = features[start : start + columns]
            d = (f * f).sum(1) - 2 * q @ f.T
            near = d.topk(min(m, len(f)), dim=1, largest=False)
            best, index = torch.cat([best, near.values], 1), torch.cat([index, near.indices + start], 1)
            keep = best.argsort(dim=1, stable=True)[:, :m]
            best, index = best.gather(1, keep), index.gather(1, keep)
        found.append(index)
    return torch.cat(found)
