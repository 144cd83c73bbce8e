"""Ways to fuse what shows where and what shows what into one map; `FrugalSISE` asks the model which one it confirms.

Besides the maps of masks that were asked about, each layer gives two for which no forward is needed: LayerCAM's
Σ_k A_k ReLU(∂y/∂A_k) and Grad-CAM's Σ_k A_k a_k (papers in `layer_cam` and `grad_cam`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.sise import scaled
from everlearn.metrics.faithfulness import blur

_ABSENT = 0.01  # what a pixel of no gradient, or of value 0, has beside the mean
_SATURATED = 0.98  # share of the pixels that lie below where a map saturates
_FIRM = 56.0  # fine maps are blurred by the longer side over this: 4 pixels of 224


def product(V: Sequence[Tensor]) -> Tensor:
    """E = V_1, then E ← (E + V_l) ⊙ V_l from fine to coarse, each scaled to 0..1; so is the result.

    Examples
    --------
    >>> import torch
    >>> product([torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 0.0, 2.0]])])
    tensor([[0.5000, 0.0000, 1.0000]])
    """
    E: Tensor | None = None
    for v in (scaled(v) for v in V if bool(v.any())):
        E = v if E is None else (E + v) * v
    return torch.zeros_like(V[0]) if E is None else scaled(E)


def gradient_maps(A: Tensor, gradient: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """LayerCAM's and Grad-CAM's map of a layer, ``[H, W]`` each, 0 or more, from ``[K, h, w]`` maps and gradients."""
    layer_cam = (A * gradient.clamp(min=0)).sum(0)
    grad_cam = (A * gradient.mean((1, 2), keepdim=True)).sum(0)
    both = torch.stack([layer_cam, grad_cam]).clamp(min=0)[None]
    both = F.interpolate(both, size=size, mode="bilinear", align_corners=False)[0]
    return both[0], both[1]


def fine_map(layer_cams: Sequence[Tensor]) -> Tensor:
    """F ``[H, W]``: mean of the LayerCAM maps but the coarsest, each blurred a little and scaled to 0..1."""
    finer = list(layer_cams[:-1]) or list(layer_cams)
    sigma = max(finer[0].shape) / _FIRM
    return scaled(torch.stack([scaled(blur(v[None, None], sigma)[0, 0]) for v in finer]).mean(0))


def edges(x: Tensor, gradient: Tensor) -> Tensor:
    r"""Which pixels count most: the fourth root of :math:`|\sum_c x_c\, \partial y/\partial x_c|` over its mean.

    Parameters
    ----------
    x, gradient : Tensor
        ``[C, H, W]``.

    Returns
    -------
    Tensor
        ``[H, W]``, above 0: where a pixel is 0 too, for its absence may count.

    Examples
    --------
    >>> import torch
    >>> edges(torch.tensor([[[0.0, 1.0, -3.0]]]), torch.ones(1, 1, 3))
    tensor([[0.3162, 0.9337, 1.2261]])
    """
    I = (x * gradient).sum(0).abs()  # noqa: E741
    return (I / I.mean().clamp(min=1e-30) + _ABSENT) ** 0.25


def fusions(
    D: Tensor, K: Tensor, fine: Tensor, layer_cams: Sequence[Tensor], grad_cam: Tensor, edge: Tensor
) -> list[Tensor]:
    """Candidates ``[H, W]``, 0..1; those that are constant are left out.

    Parameters
    ----------
    D, K : Tensor
        ``[H, W]``, 0..1: what is lost where it is hidden, and what is kept where it is shown.
    fine : Tensor
        ``[H, W]``, F of `fine_map`.
    layer_cams : sequence of Tensor
        ``[H, W]`` of each layer, fine to coarse.
    grad_cam : Tensor
        ``[H, W]`` of the coarsest layer.
    edge : Tensor
        ``[H, W]``, of `edges`.
    """
    P, G = product(layer_cams), scaled(grad_cam)
    both = K * G * fine
    drawn = [E * edge for E in ((D + K) * fine, both, G * fine, D * fine.sqrt(), K * fine, D * fine)]
    return [scaled(E) for E in (*drawn, both, D + P) if E.max() > E.min()]


def levelled(E: Tensor) -> Tensor:
    r"""A map 0..1 whose brightest pixels saturate softly, lest few of them darken all others; the order stays.

    .. math:: v\,(1 + v^4)^{-1/4}, \quad v = E / q

    with q the value that a fiftieth of the pixels exceed, scaled to 0..1.

    Examples
    --------
    >>> import torch
    >>> levelled(torch.cat([torch.zeros(50), torch.linspace(0.5, 0.6, 48), torch.tensor([5.0, 10.0])]))[[0, 50, 97, 98]]
    tensor([0.0000, 0.7552, 0.8409, 1.0000])
    """
    q = E.flatten().kthvalue(max(1, round(_SATURATED * E.numel()))).values
    v = E / torch.where(q > 0, q, E.max()).clamp(min=1e-30)
    return scaled(v * (1 + v**4) ** -0.25)
