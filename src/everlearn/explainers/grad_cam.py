"""Grad-CAM: the last feature maps, weighted by how the class's logit depends on each.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017, *Grad-CAM: Visual Explanations from Deep Networks via
Gradient-Based Localization* (ICCV 2017, arXiv 1610.02391).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.explainer import Explainer


class GradCAM(Explainer):
    r"""ReLU(Σ_k a_k A_k) of the last layer, a_k the mean over the map of ∂y/∂A_k, y the target's logit.

    One forward and one backward pass. The values are those of the formula, not scaled to each picture.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> GradCAM(model).attribute(torch.rand(2, 1, 16, 16), target=1).shape
    torch.Size([2, 1, 16, 16])
    """

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 or more."""
        ((A, gradient),) = self.maps_and_gradients(x, target, of="logit", last=True)
        a = gradient.mean((2, 3), keepdim=True)
        cam = F.relu((a * A).sum(1, keepdim=True))
        return F.interpolate(cam, size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
