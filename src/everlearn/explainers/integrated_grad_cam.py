"""Integrated Grad-CAM: Grad-CAM summed along the path from a blank picture.

Sattarzadeh, Sudhakar, Plataniotis, Jang, Jeong, Kim 2021, *Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of
Deep Convolutional Networks via Integrated Gradient-Based Scoring* (ICASSP 2021, arXiv 2102.07805).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer


class IntegratedGradCAM(Explainer):
    r"""Mean of Grad-CAM's maps of the last layer over the pictures x_t = (t/m) x.

    .. math:: \frac1m \sum_{t=1}^m \mathrm{ReLU}\Bigl(\sum_k a_k(x_t) A_k(x_t)\Bigr)

    The path starts at zeros, the mean colour of a normalised picture; :math:`a_k` is the mean over the map of
    :math:`\partial y / \partial A_k`, y the target's logit. It removes Grad-CAM's blindness where gradients saturate.

    Parameters
    ----------
    model, layers, chunk, confidence
        As for `Explainer`.
    steps : int
        m; as many forwards and backwards, ``chunk`` at a time.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> IntegratedGradCAM(model, steps=5).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, model: nn.Module, *settings: Any, steps: int = 50, **more: Any) -> None:
        super().__init__(model, *settings, **more)
        if steps < 1:
            raise SettingError(f"steps is {steps}; expected 1 or more")
        self.steps = steps

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0 or more."""
        path = torch.arange(1, self.steps + 1, device=x.device) / self.steps
        total: Tensor | None = None
        for part in path.split(self.chunk):
            points = x * part[:, None, None, None].to(x.dtype)
            ((A, gradient),) = self.maps_and_gradients(points, target.expand(len(part)), of="logit", last=True)
            cams = F.relu((gradient.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True)).sum(0, keepdim=True)
            total = cams if total is None else total + cams
        assert total is not None
        return F.interpolate(total / self.steps, size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
