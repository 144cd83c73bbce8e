"""Weighted KNN-Shapley with discretised weights: near neighbours have more votes; exact.

The utility is that of Wang, Mittal, Jia 2024, *Efficient Data Shapley for Weighted Nearest Neighbor Algorithms*
(AISTATS 2024, arXiv 2401.11103): does the coalition's weighted vote of K neighbours give the right label?

Their dynamic programme runs for each candidate apart, in O(K² N² L). Here candidates with the same signed vote share
one: the counts of coalitions without a given vote are those of all, with that vote taken out again, so the time is
linear in N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.valuation.knn_shapley import check_features, nearest_order


def weighted_knn_shapley(
    eval_features: Tensor,
    eval_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 3,
    *,
    levels: int = 4,
    bandwidth: float | None = None,
) -> Tensor:
    r"""Shapley value of every candidate for every evaluation point.

    A neighbour at distance d votes with the weight :math:`\exp(-d^2 / 2h^2)`, rounded to one of 0, 1/L … 1; a
    coalition is worth 1 if the weights of matches among its K nearest outweigh those of the others, else 0.

    Parameters
    ----------
    eval_features, eval_labels, features, labels : Tensor
        ``[E, D]``, ``[E]``, ``[N, D]``, ``[N]``.
    k : int
        Neighbours that vote, 1 or more.
    levels : int
        L, 1 or more. Time and memory grow as N L² K².
    bandwidth : float, optional
        h; by default, for each evaluation point, its distance to the K-th nearest candidate.

    Returns
    -------
    Tensor
        ``[E, N]`` float64; each row sums to v(all candidates).

    Raises
    ------
    SettingError
        If k, levels or bandwidth is out of range, or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> line = torch.tensor([[0.0], [1.0], [2.0]])
    >>> values = weighted_knn_shapley(torch.tensor([[0.1]]), torch.tensor([1]), line, torch.tensor([1, 0, 1]), k=2)
    >>> round(values.sum().item(), 6)
    1.0
    """
    check_features(eval_features, eval_labels, features, labels)
    if k < 1 or levels < 1:
        raise SettingError(f"k is {k} and levels is {levels}; expected 1 or more of each")
    if bandwidth is not None and not bandwidth > 0:
        raise SettingError(f"bandwidth is {bandwidth}; expected a distance above 0")
    values = torch.zeros(len(eval_features), len(features), dtype=torch.float64, device=features.device)
    if values.numel() == 0:
        return values
    order = nearest_order(eval_features, features)
    d = torch.stack([(features[o] - q).norm(dim=1) for o, q in zip(order, eval_features)]).double()
    h = d[:, min(k, len(features)) - 1, None] if bandwidth is None else torch.full_like(d[:, :1], bandwidth)
    weights = torch.exp(-(d**2) / (2 * h.clamp(min=torch.finfo(torch.float64).tiny ** 0.5) ** 2))
    matches = labels[order] == eval_labels[:, None]
    votes = (weights * levels).round().long() * torch.where(matches, 1, -1)
    return values.scatter_(1, order, shapley_of_votes(votes, k, levels))


def shapley_of_votes(votes: Tensor, k: int, levels: int) -> Tensor:
    r"""Shapley values of integer votes cast from near to far, of which the first K of a coalition count.

    v(S) = 1 if the K nearest votes of S sum to more than 0, else 0. With candidates 1 … N from near to far, the
    coalitions that candidate i enters are of two kinds: fewer than K others, and those where i drives out their K-th
    nearest, r > i. The rest of the latter is free, and summing it out leaves the weight :math:`B(K + 1, r - K) = 1 /
    (r \binom{r-1}{K})`.

    Parameters
    ----------
    votes : Tensor
        ``[E, N]`` int64, each −levels … levels.

    Returns
    -------
    Tensor
        ``[E, N]`` float64.

    Examples
    --------
    >>> import torch
    >>> shapley_of_votes(torch.tensor([[2, -1]]), k=1, levels=2).round(decimals=6).abs().tolist()
    [[1.0, 0.0]]
    """
    e, n = votes.shape
    reach = k * levels  # of a sum of K votes
    sums = torch.arange(-reach, reach + 1, device=votes.device)
    signed = torch.arange(-levels, levels + 1, device=votes.device)
    # counts_EMS[e, m, s]: coalitions of m of the candidates so far with the sum s
    counts = torch.zeros(e, k, len(sums), dtype=torch.float64, device=votes.device)
    counts[:, 0, reach] = 1.0
    wins = (sums > 0).double()
    wins_with = (sums + signed[:, None] > 0).double()  # [votes, sums]
    row = torch.arange(e, device=votes.device)
    driven_out = torch.zeros(n + 1, e, len(signed), dtype=torch.float64, device=votes.device)
    for r in range(1, n + 1):
        a = votes[:, r - 1]
        if r > k:
            without = _take_out(counts, signed)[:, :, k - 1]
            gain = (without * (wins_with - wins_with[a + levels][:, None])).sum(2)
            driven_out[r] = gain * math.exp(math.lgamma(k + 1) + math.lgamma(r - k) - math.lgamma(r + 1))
        for m in range(k - 1, 0, -1):
            counts[:, m] += _shifted(counts[:, m - 1], a)
    small = _take_out(counts, signed)  # without one candidate of each vote
    sizes = torch.tensor([1 / (n * math.comb(n - 1, m)) if m < n else 0.0 for m in range(k)], dtype=torch.float64)
    direct = torch.einsum("evms,vs,m->ev", small, wins_with - wins, sizes.to(votes.device))
    later = driven_out.flip(0).cumsum(0).flip(0)  # later[i]: all r ≥ i
    index = votes.T + levels
    return (direct[row, index] + later[torch.arange(1, n + 1, device=votes.device)[:, None], row, index]).T


def _take_out(counts: Tensor, signed: Tensor) -> Tensor:
    """``[E, votes, M, S]``: counts of coalitions without one candidate of that vote; meaningless if there is none."""
    e, k, s = counts.shape
    source = torch.arange(s, device=counts.device) - signed[:, None]
    inside, source = (source >= 0) & (source < s), source.clamp(0, s - 1).expand(e, -1, -1)
    out = [counts[:, None, 0].expand(e, len(signed), s)]
    for m in range(1, k):
        out.append(counts[:, None, m] - out[-1].gather(2, source) * inside)
    return torch.stack(out, 2)


def _shifted(counts: Tensor, by: Tensor) -> Tensor:
    """``[E, S]`` moved right by each row's ``by``; sums of fewer than K votes never leave the range."""
    s = counts.shape[1]
    source = torch.arange(s, device=counts.device) - by[:, None]
    inside = (source >= 0) & (source < s)
    return counts.gather(1, source.clamp(0, s - 1)) * inside
