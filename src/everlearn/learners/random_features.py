"""A ridge classifier on random features of frozen features.

McDonnell et al. 2023, *RanPAC: Random Projections and Pre-trained Models for Continual Learning* (NeurIPS 2023, arXiv
2307.02251).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.learners.streaming_head import StreamingHead, precise, rows
from everlearn.models import Model


class RandomFeatures(StreamingHead):
    """h = relu(fᵀ R), R drawn once; G = Σ h hᵀ and c = Σ h yᵀ run on; scores = hᵀ (G + λ I)⁻¹ c.

    The paper chooses λ by validation on each task's data; one pass without borders has none, so λ is a share of G's
    mean diagonal.

    Parameters
    ----------
    model, optimizer, **settings
        As for `StreamingHead`.
    width : int
        M, the number of random features; G has M² entries. The paper takes 10 000.
    ridge : float
        λ as a share of G's mean diagonal.
    temperature : float
        The scores, which lie about 0 and 1, are divided by it: it decides how confident probabilities are, not which
        class wins.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        width: int = 2000,
        ridge: float = 1e-4,
        temperature: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if width < 1 or ridge <= 0 or temperature <= 0:
            found = f"width is {width}, ridge {ridge}, temperature {temperature}"
            raise SettingError(f"{found}; expected a width of 1 or more and the others above 0")
        self.width, self.ridge, self.temperature = width, ridge, temperature
        self._R: Tensor | None = None

    def add(self, f: Tensor, y: Tensor) -> Tensor:
        """Add a batch to G and c; returns the share of the batch in G's trace, which tells a feature that blows up."""
        h = self.lift(f)
        M = self.width
        G = self.sums["G"] if "G" in self.sums else h.new_zeros(M, M)
        G.addmm_(h.T, h)
        c = rows(self.sums.get("c"), len(self.classes.codes), h[0]).index_add(0, y, h)
        self.sums = {"G": G, "c": c}
        return (h.square().sum() / G.diagonal().sum().clamp(min=torch.finfo(h.dtype).tiny)).float()

    def lift(self, f: Tensor) -> Tensor:
        """h = relu(fᵀ R)."""
        if self._R is None or len(self._R) != f.shape[1]:
            draw = torch.Generator().manual_seed(self.seed)
            R = torch.randn(f.shape[1], self.width, generator=draw, dtype=torch.float64) / math.sqrt(f.shape[1])
            self._R = R.to(self.device, precise(self.device))  # whoever asks first
        return (f @ self._R.to(f.dtype)).relu()

    def solve(self) -> tuple[Tensor, Tensor]:
        """(G + λ I)⁻¹ c."""
        G, c = self.sums["G"], self.sums["c"]
        mean = G.diagonal().mean()
        λ = self.ridge * torch.where(mean > 0, mean, torch.ones_like(mean))
        regular = G + λ * torch.eye(len(G), dtype=G.dtype, device=G.device)
        W = torch.cholesky_solve(c.T, torch.linalg.cholesky(regular))
        return W / self.temperature, torch.zeros_like(W[0])
