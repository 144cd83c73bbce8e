"""RefineCAM: the product of all layers' maps: the deep ones say what, the early ones where exactly.

Domeniconi, Stramiglio, Lombardi, Salti 2026, *How to Evaluate and Refine your CAM* (arXiv 2605.14641).
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.explainers.explainer import Explainer
from everlearn.explainers.grad_cam_plus_plus import layer_map
from everlearn.explainers.sise import scaled


class RefineCAM(Explainer):
    r""":math:`\prod_l M_l`, scaled to 0..1: :math:`M_l` Grad-CAM++'s map of layer l, enlarged and scaled to 0..1.

    One forward and one backward pass. A layer whose map is constant says nothing and is passed over.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> RefineCAM(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0..1."""
        size = (x.shape[2], x.shape[3])
        found = [scaled(layer_map(A, g, size)) for A, g in self.maps_and_gradients(x, target, of="logit")]
        found = [M for M in found if bool(M.any())]
        return scaled(torch.stack(found).prod(0)) if found else torch.zeros(size, device=x.device)
