"""Losses over classes seen so far, as pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_cross_entropy(logits: Tensor, targets: Tensor, allowed: Tensor) -> Tensor:
    """Mean cross-entropy of a softmax over the allowed classes alone.

    Parameters
    ----------
    logits, targets : Tensor
        ``[n, C]`` and ``[n]``.
    allowed : Tensor
        ``[C]`` or ``[n, C]`` bool; every sample's own class must be allowed.

    Examples
    --------
    >>> import torch
    >>> logits = torch.zeros(1, 4)
    >>> masked_cross_entropy(logits, torch.tensor([0]), torch.tensor([True, True, False, False])).exp().round().item()
    2.0
    """
    return F.cross_entropy(logits.masked_fill(~allowed, -math.inf), targets)


def present(targets: Tensor, n_classes: int) -> Tensor:
    """``[C]`` bool: the classes that occur among the targets, without leaving their device.

    Examples
    --------
    >>> import torch
    >>> present(torch.tensor([2, 0, 2]), 4).tolist()
    [True, False, True, False]
    """
    return torch.zeros(n_classes, dtype=torch.bool, device=targets.device).index_fill_(0, targets, True)


def labels_trick(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the classes of this batch alone (Zeno et al. 2018, arXiv 1803.10123).

    Examples
    --------
    >>> import torch
    >>> labels_trick(torch.zeros(2, 9), torch.tensor([3, 5])).exp().round().item()
    2.0
    """
    return masked_cross_entropy(logits, targets, present(targets, logits.shape[1]))


def separated_softmax(logits: Tensor, targets: Tensor, old: int) -> Tensor:
    """One softmax over the classes below ``old`` for their samples, one over the others for theirs.

    Ahn et al. 2021, *SS-IL: Separated Softmax for Incremental Learning* (arXiv 2003.13947).

    Examples
    --------
    >>> import torch
    >>> separated_softmax(torch.zeros(1, 9), torch.tensor([1]), old=3).exp().round().item()
    3.0
    """
    is_old = torch.arange(logits.shape[1], device=logits.device) < old
    return masked_cross_entropy(logits, targets, is_old == (targets < old)[:, None])


def supervised_contrastive(projections: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """Mean over samples i of −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ) ).

    Khosla et al. 2020, *Supervised Contrastive Learning* (arXiv 2004.11362), eq. 2. P(i) are the other samples of i's
    class; a sample without any is left out.

    Parameters
    ----------
    projections : Tensor
        ``[n, d]`` of length 1, all views of all samples.
    targets : Tensor
        ``[n]``.
    temperature : float
        τ.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> round(supervised_contrastive(z, torch.tensor([0, 0, 1, 1])).item(), 4)
    0.0
    """
    n = len(targets)
    itself = torch.eye(n, dtype=torch.bool, device=targets.device)
    similarity = (projections @ projections.T / temperature).masked_fill(itself, -math.inf)
    log_p = (similarity - similarity.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    positive = (targets[:, None] == targets) & ~itself
    partners = positive.sum(1)
    per_sample = -(log_p * positive).sum(1) / partners.clamp(min=1)
    return per_sample.sum() / (partners > 0).sum().clamp(min=1)


def distillation(logits: Tensor, taught: Tensor, temperature: float = 2.0) -> Tensor:
    """τ² KL(T ‖ S) of softmaxes at temperature τ, mean over samples (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    Examples
    --------
    >>> import torch
    >>> distillation(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
    0.0
    """
    log_S, log_T = (logits / temperature).log_softmax(1), (taught / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_S, log_T, reduction="batchmean", log_target=True)
