"""Grad-CAM++: Grad-CAM with weights that count each occurrence of the class.

Chattopadhay, Sarkar, Howlader, Balasubramanian 2018, *Grad-CAM++: Generalized Gradient-Based Visual Explanations for
Deep Convolutional Networks* (WACV 2018, arXiv 1710.11063).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.explainer import Explainer


class GradCAMPlusPlus(Explainer):
    r"""ReLU(Σ_k w_k A_k) of the last layer, w_k a weighted sum of positive gradients.

    .. math:: w_k = \sum_{ij} \alpha_{ij} \mathrm{ReLU}(g_{ij}), \quad \alpha = g^2 / (2 g^2 + g^3 \sum A)

    g is the gradient of the target's logit. The paper takes exp of the logit, which scales all weights alike; that
    factor, which can overflow, is left out.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> GradCAMPlusPlus(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 or more."""
        ((A, g),) = self.maps_and_gradients(x, target, of="logit", last=True)
        return layer_map(A, g, (x.shape[2], x.shape[3]))


def layer_map(A: Tensor, g: Tensor, size: tuple[int, int]) -> Tensor:
    """Grad-CAM++'s map ``[H, W]``, 0 or more, of one layer's maps and gradients ``[1, K, h, w]``."""
    below = 2 * g**2 + g**3 * A.sum((2, 3), keepdim=True)
    alpha = torch.where(below != 0, g**2 / torch.where(below != 0, below, 1.0), 0.0)
    w = (alpha * F.relu(g)).sum((2, 3), keepdim=True)
    cam = F.relu((w * A).sum(1, keepdim=True))
    return F.interpolate(cam, size=size, mode="bilinear", align_corners=False)[0, 0]
