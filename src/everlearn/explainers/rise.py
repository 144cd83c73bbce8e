"""RISE: random masks, averaged by the confidence that they leave. It needs no access to the model but its answers.

Petsiuk, Das, Saenko 2018, *RISE: Randomized Input Sampling for Explanation of Black-box Models* (BMVC 2018,
arXiv 1806.07421).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer


class RISE(Explainer):
    """Σ_m (Ψ(I ⊙ m) − Ψ(I ⊙ m_1)) m(λ) / Σ_m m(λ) over random masks m.

    The paper divides by the number of masks times the share shown; dividing by what was shown of each pixel gives the
    same in expectation with less noise, and the constant offset gives a model that ignores the picture exactly zero.

    Parameters
    ----------
    model, layers, chunk, confidence
        As for `Explainer`; no layer is used.
    samples : int
        Masks, as many forwards.
    cells : int
        A mask is a random grid of so many cells a side, enlarged and shifted.
    shown : float
        Share of cells that is kept, between 0 and 1.
    seed : int
        Of the masks; each picture gets the same ones.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    >>> RISE(model, samples=50).attribute(torch.rand(1, 1, 16, 16)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        *settings: Any,
        samples: int = 2000,
        cells: int = 7,
        shown: float = 0.5,
        seed: int = 0,
        **more: Any,
    ) -> None:
        super().__init__(model, *settings, **more)
        if samples < 1 or cells < 1 or not 0 < shown < 1:
            raise SettingError(
                f"samples is {samples}, cells {cells}, shown {shown}; expected 1 or more, 1 or more, and 0 to 1"
            )
        self.samples, self.cells, self.shown, self.seed = samples, cells, shown, seed

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, of both signs."""
        generator = torch.Generator().manual_seed(self.seed)
        h, w = x.shape[2:]
        weighted = torch.zeros(h, w, dtype=torch.float64, device=x.device)
        shown = torch.zeros_like(weighted)
        offset: Tensor | None = None
        grids, shifts = self.grids(generator)
        for grid, shift in zip(grids.split(self.chunk), shifts.split(self.chunk)):
            m = self.masks(grid, shift, h, w).to(x.device)
            psi = self.score(x * m[:, None].to(x.dtype), target)
            offset = psi[0] if offset is None else offset
            weighted += torch.einsum("n,nhw->hw", psi - offset, m)
            shown += m.sum(0)
        return (weighted / shown.clamp(min=1e-6)).float()

    def grids(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All random draws: grids ``[samples, 1, cells + 1, cells + 1]`` and their shifts ``[samples, 2]``."""
        grid = torch.rand(self.samples, 1, self.cells + 1, self.cells + 1, generator=generator) < self.shown
        return grid.float(), torch.rand(self.samples, 2, generator=generator)

    def masks(self, grid: Tensor, shift: Tensor, h: int, w: int) -> Tensor:
        """``[n, h, w]`` masks, 0..1, of n grids and shifts in shares of a cell."""
        cell = (-(-h // self.cells), -(-w // self.cells))
        size = ((self.cells + 1) * cell[0], (self.cells + 1) * cell[1])
        large = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[:, 0]
        starts = (shift * torch.tensor(cell)).long().tolist()
        return torch.stack([g[t : t + h, s : s + w] for g, (t, s) in zip(large, starts)])
