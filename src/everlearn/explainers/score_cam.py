"""Score-CAM: the last feature maps, weighted by the logit that each leaves when it masks the picture.

Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu 2020, *Score-CAM: Score-Weighted Visual Explanations for Convolutional
Neural Networks* (CVPR workshops 2020, arXiv 1910.01279).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.explainers.explainer import Explainer
from everlearn.explainers.layers import forward_with_maps
from everlearn.explainers.sise import masks
from everlearn.metrics.confidence import outputs, target_logits


class ScoreCAM(Explainer):
    """ReLU(Σ_k w_k A_k) of the last layer, w the softmax over k of the target's logit on I ⊙ m_k.

    One forward for each feature map that is not constant.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> ScoreCAM(model).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 or more."""
        with torch.no_grad():
            A = forward_with_maps(self.model, x, self.layers)[1][-1].channels_first()[0]
        A = A[A.flatten(1).amax(1) > A.flatten(1).amin(1)]
        if len(A) == 0:
            return torch.zeros(x.shape[2:], device=x.device)
        scores = []
        for part in A.split(self.chunk):
            m = masks(part, (x.shape[2], x.shape[3]))
            with torch.no_grad():
                logits = outputs(self.model, x * m[:, None].to(x.dtype))
            scores.append(target_logits(logits, target.expand(len(part)), self.kind).float())
        z = torch.cat(scores)
        if len(z) > 1 and bool((z == z[0]).all()):  # no mask changes anything
            return torch.zeros(x.shape[2:], device=x.device)
        cam = F.relu(torch.einsum("k,khw->hw", z.softmax(0), A))
        return F.interpolate(cam[None, None], size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
