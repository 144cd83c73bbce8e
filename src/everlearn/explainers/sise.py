"""SISE: semantic input sampling for explanation.

Sattarzadeh, Sudhakar, Lem, Mehryar, Plataniotis, Jang, Kim, Jeong, Lee, Bae 2021, *Explaining Convolutional Neural
Networks through Attribution-Based Input Sampling and Block-Wise Feature Aggregation* (AAAI 2021, arXiv 2010.00672).

The method is covered by US patent 11,809,519 B2 (LG Electronics; University of Toronto). Everlearn's licence covers
the code; whoever uses the method commercially should see to the patent.

Letters: I picture, m mask, λ pixel, Ψ confidence in the target class, A_k feature map, V_l map of layer l, E fused map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.explainers.otsu import otsu_threshold

_TEMPERATURE = 100.0


class SISE(Explainer):
    r"""Feature maps as masks, scored by the confidence that they leave, fused from the finest layer to the coarsest.

    1. One backward pass gives :math:`\alpha_k = \sum_\lambda \partial\Psi/\partial A_k`; the maps with
       :math:`\alpha_k / \max\alpha > \mu`, enlarged to the picture and scaled to 0..1, are the masks of a layer.
    2. :math:`V_l(\lambda) = \frac{1}{|M|}\sum_m \Psi(I \odot m)\, m(\lambda) / \sum_{\lambda'} m(\lambda')`, scaled
       to 0..1.
    3. :math:`E = V_1`, then :math:`E \leftarrow (E + V_l) \odot B(V_l)`, B Otsu's threshold.

    The gradient is taken of Ψ's log-odds: α differs by a positive factor that α / max α cancels, and stays when Ψ
    rounds to 1. Masked pixels become 0, the mean colour of a normalised picture. A layer without any positive map is
    passed over.

    Parameters
    ----------
    model, layers, chunk, confidence
        As for `Explainer`; layers from the finest to the coarsest.
    mu : float
        0 ≤ μ < 1. Larger is faster: 0.3 keeps about a quarter of the masks.
    threshold : {"hard", "soft"}
        B: zero or one, or :math:`\sigma(100\,(V_l - t))`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> SISE(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, model: nn.Module, *settings: Any, mu: float = 0.0, threshold: str = "hard", **more: Any) -> None:
        super().__init__(model, *settings, **more)
        if not 0 <= mu < 1:
            raise SettingError(f"mu is {mu}; expected 0 ≤ mu < 1")
        if threshold not in ("hard", "soft"):
            raise SettingError(f"threshold is {threshold!r}; expected 'hard' or 'soft'")
        self.mu = mu
        self.threshold = threshold

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 to the number of layers."""
        E = torch.zeros(x.shape[2:], device=x.device)
        first = True
        for A, gradient in self.maps_and_gradients(x, target, of="log-odds"):
            A_khw = A[0][self.select(gradient[0].sum((1, 2)))]
            V = self.layer_map(x, target, A_khw)
            if V is None:
                continue
            E = V if first else (E + V) * self.binarise(V)
            first = False
        return E

    def select(self, alpha: Tensor) -> Tensor:
        """Indices of the maps to use, given α ``[K]``."""
        largest = alpha.max()
        return torch.nonzero((alpha > 0) & (alpha > self.mu * largest)).flatten()

    def layer_map(self, x: Tensor, target: Tensor, A_khw: Tensor) -> Tensor | None:
        """V_l ``[H, W]`` scaled to 0..1, or None where no map makes a mask."""
        A_khw = A_khw[A_khw.flatten(1).amax(1) > A_khw.flatten(1).amin(1)]
        if len(A_khw) == 0:
            return None
        total = torch.zeros(x.shape[2:], dtype=torch.float64, device=x.device)
        for part in A_khw.split(self.chunk):
            m = masks(part, (x.shape[2], x.shape[3]))
            psi = self.score(x * m[:, None].to(x.dtype), target)
            total += torch.einsum("k,khw->hw", psi / m.sum((1, 2)), m)
        return scaled(total.float())

    def binarise(self, V: Tensor) -> Tensor:
        """B(V)."""
        t = otsu_threshold(V.flatten())
        return (t < V).to(V.dtype) if self.threshold == "hard" else torch.sigmoid(_TEMPERATURE * (V - t))


def masks(A_khw: Tensor, size: tuple[int, int]) -> Tensor:
    """Feature maps ``[k, h, w]``, none of them constant, as masks ``[k, H, W]``: enlarged bilinearly, each 0..1."""
    m = F.interpolate(A_khw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low) / (high - low).clamp(min=torch.finfo(m.dtype).tiny)


def scaled(V: Tensor) -> Tensor:
    """A map with its smallest value at 0 and its largest at 1; zeros where all values are equal."""
    low, high = V.min(), V.max()
    return (V - low) / (high - low) if high > low else torch.zeros_like(V)
