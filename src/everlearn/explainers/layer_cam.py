"""LayerCAM: each place of a feature map weighted by its own positive gradient.

Jiang, Zhang, Hou, Cheng, Wei 2021, *LayerCAM: Exploring Hierarchical Class Activation Maps for Localization*
(IEEE Transactions on Image Processing 30).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.explainer import Explainer


class LayerCAM(Explainer):
    """ReLU(Σ_k ReLU(∂y/∂A_k) ⊙ A_k) of the last layer, or of the one layer named; y the target's logit.

    Unlike Grad-CAM it can be read at early, fine layers too.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> LayerCAM(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 or more."""
        ((A, g),) = self.maps_and_gradients(x, target, of="logit", last=True)
        cam = F.relu((F.relu(g) * A).sum(1, keepdim=True))
        return F.interpolate(cam, size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
