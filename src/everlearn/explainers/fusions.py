"""Ways to fuse the maps of layers, fine to coarse, into one; `FrugalSISE` asks the model which one it confirms.

Besides the maps V of masks that were asked about, each layer gives two for which no forward is needed: LayerCAM's
Σ_k A_k ReLU(∂y/∂A_k) and Grad-CAM's Σ_k A_k a_k (papers in `layer_cam` and `grad_cam`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.sise import scaled
from everlearn.metrics.faithfulness import blur

_FIRM = 75.0  # fine maps are blurred by the longer side over this: 3 pixels of 224


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


def fusions(V: Sequence[Tensor], layer_cams: Sequence[Tensor], grad_cams: Sequence[Tensor]) -> list[Tensor]:
    """Candidates ``[H, W]``, 0..1, the product of V first; those without energy are left out.

    Parameters
    ----------
    V, layer_cams, grad_cams : sequence of Tensor
        ``[H, W]`` of each layer, fine to coarse.
    """
    E, deep, last = product(V), scaled(V[-1]), scaled(grad_cams[-1])
    firm = [scaled(_firm(v)) for v in layer_cams[:-1]]
    weights = [1.0] * (len(V) - 2) + [2.0, 4.0]
    wide = sum((w * scaled(v) for w, v in zip(weights[-len(V) :], V)), torch.zeros_like(E))
    found = [E, last * E, last.sqrt() * wide, product(layer_cams)]
    if firm:
        found.append(deep * torch.stack(firm).mean(0))
        found.append(last * torch.stack(firm).mean(0))
    return found[:1] + [scaled(f) for f in found[1:] if bool((f > f.min()).any())]


def _firm(v: Tensor) -> Tensor:
    return blur(v[None, None], max(v.shape) / _FIRM)[0, 0]
