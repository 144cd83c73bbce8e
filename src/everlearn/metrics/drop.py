"""Drop, increase and gain: what is left of the confidence when only a map's top pixels are shown.

Chattopadhay et al. 2018, *Grad-CAM++* (arXiv 1710.11063); the top 15 % as in SISE (arXiv 2010.00672); gain from
Zhang et al. 2023, *Opti-CAM* (arXiv 2301.07002).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.metrics.confidence import confidence
from everlearn.metrics.localisation import top_pixels


@dataclass(frozen=True)
class Drop:
    """Of each picture ``[n]``, in per cent; Y the confidence, O what is left of it.

    Parameters
    ----------
    drop : Tensor
        100 · max(0, Y − O) / Y. Lower is better.
    increase : Tensor
        100 where O > Y, else 0.
    gain : Tensor
        100 · max(0, O − Y) / (1 − Y).
    """

    drop: Tensor
    increase: Tensor
    gain: Tensor


def drop_increase_gain(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    top: float = 0.15,
    kind: str = "auto",
    chunk: int = 64,
) -> Drop:
    """Show only the top share of pixels, the others at 0, the mean colour of a normalised picture.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    inputs, maps, target : Tensor
        ``[n, C, H, W]``, ``[n, 1, H, W]``, ``[n]``.
    top : float
        Share of pixels that stays.
    kind, chunk
        As for `insertion_auc`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> drop_increase_gain(model, torch.ones(1, 1, 4, 4), torch.rand(1, 1, 4, 4), torch.tensor([1])).drop.shape
    torch.Size([1])
    """
    if not 0 < top <= 1:
        raise SettingError(f"top is {top}; expected a share of the pixels, above 0 and at most 1")
    if maps.shape != (len(inputs), 1, *inputs.shape[2:]):
        raise SettingError(f"maps are {tuple(maps.shape)}; expected {(len(inputs), 1, *inputs.shape[2:])}")
    shown = top_pixels(maps, max(1, round(top * maps.shape[2] * maps.shape[3]))).reshape(maps.shape)
    Y = confidence(model, inputs, target, kind, chunk).double()
    O = confidence(model, inputs * shown, target, kind, chunk).double()  # noqa: E741  as the paper writes it
    tiny = torch.finfo(torch.float64).tiny
    drop = (Y - O).clamp(min=0) / Y.clamp(min=tiny)
    gain = torch.where(Y < 1, (O - Y).clamp(min=0) / (1 - Y).clamp(min=tiny), 0.0)
    return Drop(100 * drop.float(), 100 * (O > Y).float(), 100 * gain.float())
