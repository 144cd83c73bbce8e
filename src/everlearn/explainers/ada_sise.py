"""Ada-SISE: SISE that finds for each layer by itself how many masks are worth their forward.

Sudhakar, Sattarzadeh, Plataniotis, Jang, Jeong, Kim 2021, *Ada-SISE: Adaptive Semantic Input Sampling for Efficient
Explanation of Convolutional Neural Networks* (ICASSP 2021, arXiv 2102.07799). Covered by the patent that `sise` names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.explainers.otsu import otsu_threshold
from everlearn.explainers.sise import SISE


class AdaSISE(SISE):
    """SISE with Otsu's threshold over a layer's positive α / max α in place of μ.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> AdaSISE(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def select(self, alpha: Tensor) -> Tensor:
        """Indices of the maps above the threshold; of equal ones all."""
        positive = alpha[alpha > 0]
        if len(positive) == 0:
            return torch.zeros(0, dtype=torch.int64, device=alpha.device)
        threshold = otsu_threshold(positive / positive.max()) * positive.max()
        chosen = alpha > threshold
        return torch.nonzero(chosen if chosen.any() else alpha > 0).flatten()
