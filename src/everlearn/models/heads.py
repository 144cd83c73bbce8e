"""Heads that grow: from features to one logit for each class seen so far. A class's index never changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearHead(nn.Module):
    """logits = W f + b, with a row of W for every class seen so far.

    A new row is drawn as PyTorch draws a linear layer, U(−1/√d, 1/√d), from the generator that is passed to `grow`.

    Examples
    --------
    >>> import torch
    >>> head = LinearHead(feature_dim=4)
    >>> head.grow(3, torch.Generator().manual_seed(0))
    >>> head(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(0, feature_dim))
        self.bias = nn.Parameter(torch.zeros(0))

    @property
    def n_classes(self) -> int:
        """Classes the head has a row for."""
        return len(self.bias)

    def grow(self, n_classes: int, generator: torch.Generator) -> None:
        """Add rows until there are ``n_classes``. The parameters stay the same objects, so any optimiser keeps them."""
        more, d = n_classes - self.n_classes, self.weight.shape[1]
        if more <= 0:
            return
        for parameter, shape in ((self.weight, (more, d)), (self.bias, (more,))):
            rows = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(d)
            parameter.data = torch.cat([parameter.data, rows.to(parameter)])
            parameter.grad = None

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of features ``[n, d]``."""
        return F.linear(features, self.weight, self.bias)


class NearestClassMean(nn.Module):
    """logits = −‖f/‖f‖ − μ_c‖², μ_c the normalised mean of the class's normalised features (iCaRL, arXiv 1611.07725).

    Examples
    --------
    >>> import torch
    >>> head = NearestClassMean(feature_dim=2)
    >>> head.fit(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]), n_classes=2)
    >>> head(torch.tensor([[0.1, 3.0]])).argmax(1).tolist()
    [1]
    """

    means: Tensor
    seen: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(0, feature_dim))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))

    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        n_classes: int,
        total: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> None:
        """Compute the means of ``[n, d]`` features by class index; a class without samples is never predicted.

        ``total`` adds up sums by class over processes that hold a part of the samples each.
        """
        normal = F.normalize(features.float(), dim=1)
        sums = normal.new_zeros(n_classes, normal.shape[1]).index_add_(0, targets, normal)
        self.means = F.normalize(total(sums), dim=1)
        self.seen = total(torch.bincount(targets, minlength=n_classes)) > 0

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of features ``[n, d]``."""
        distances = torch.cdist(F.normalize(features.float(), dim=1), self.means).square()
        return (-distances).masked_fill(~self.seen, -math.inf)
