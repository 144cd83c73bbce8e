"""SLDA: streaming linear discriminant analysis.

Hayes & Kanan 2020, *Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis* (CVPR workshops 2020,
arXiv 1909.01520).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.errors import SettingError
from everlearn.learners.streaming_head import StreamingHead, rows
from everlearn.models import Model


class SLDA(StreamingHead):
    """A mean for each class and one covariance for all: W = Λ μ_c, b = −½ μ_cᵀ Λ μ_c, Λ = [(1 − ε) Σ + ε s I]⁻¹.

    Σ is the exact scatter within classes over the number of samples, kept by the update of Chan, Golub, LeVeque 1979
    for whole batches; s is Σ's mean diagonal, so that ε does not depend on the features' scale.

    Parameters
    ----------
    model, optimizer, **settings
        As for `StreamingHead`.
    shrinkage : float
        ε.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        shrinkage: float = 1e-4,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if not 0 < shrinkage <= 1:
            raise SettingError(f"shrinkage is {shrinkage}; expected a share above 0, up to 1")
        self.shrinkage = shrinkage

    def add(self, f: Tensor, y: Tensor) -> Tensor:
        """Add a batch to means and scatter; returns the mean squared distance to the class means, per dimension."""
        C, d = len(self.classes.codes), f.shape[1]
        n_C = rows(self.sums.get("n"), C, f[0, 0])
        μ_Cd = rows(self.sums.get("mean"), C, f[0])
        S_dd = self.sums.get("scatter", f.new_zeros(d, d))
        b_C = torch.zeros_like(n_C).index_add_(0, y, torch.ones_like(f[:, 0]))
        m_Cd = torch.zeros_like(μ_Cd).index_add_(0, y, f) / b_C.clamp(min=1)[:, None]
        total_C = n_C + b_C
        inner = f - m_Cd[y]
        gap = (m_Cd - μ_Cd) * (n_C * b_C / total_C.clamp(min=1)).sqrt()[:, None]  # between the batch and the past
        S_dd = S_dd + inner.T @ inner + gap.T @ gap
        μ_Cd = μ_Cd + (m_Cd - μ_Cd) * (b_C / total_C.clamp(min=1))[:, None]
        self.sums = {"n": total_C, "mean": μ_Cd, "scatter": S_dd}
        return (f - μ_Cd[y]).square().mean().float()

    def solve(self) -> tuple[Tensor, Tensor]:
        """W and b from means and scatter."""
        Σ, μ_Cd = self.sums["scatter"] / self.sums["n"].sum(), self.sums["mean"]
        s = Σ.diagonal().mean()
        s = torch.where(s > 0, s, torch.ones_like(s))
        regular = (1 - self.shrinkage) * Σ + self.shrinkage * s * torch.eye(len(Σ), dtype=Σ.dtype, device=Σ.device)
        W_dC = torch.cholesky_solve(μ_Cd.T, torch.linalg.cholesky(regular))
        return W_dC, -(μ_Cd.T * W_dC).sum(0) / 2
