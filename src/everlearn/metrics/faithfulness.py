"""Is a map faithful? Show the model what the map calls important, or take it away, and watch the confidence.

Insertion and deletion are from Petsiuk, Das, Saenko 2018, *RISE* (arXiv 1806.07421). Usual metrics barely tell methods
from noise (arXiv 2404.01415), so the same figure for random maps of the same power spectrum belongs beside each map's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.metrics.confidence import confidence


def insertion_auc(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    steps: int = 16,
    baseline: str = "blur",
    kind: str = "auto",
    chunk: int = 64,
) -> Tensor:
    """Area under the confidence while pixels appear on a blank picture, most important first. Higher is better.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode, on the inputs' device.
    inputs, maps : Tensor
        ``[n, C, H, W]`` normalised and ``[n, 1, H, W]``.
    target : Tensor
        ``[n]`` class indices.
    steps : int
        Parts of H·W/steps pixels each; steps + 1 forwards a picture. Equal map values keep the pixels' order.
    baseline : {"blur", "zero"}
        The blank picture: the blurred one (sigma a twentieth of the longer side), or zeros, the mean colour.
    kind : {"auto", "softmax", "sigmoid", "none"}
        How outputs become confidences.
    chunk : int
        Pictures computed at once.

    Returns
    -------
    Tensor
        ``[n]``: trapezoids over the share of pixels shown, 0 to 1 for probabilities.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> x = torch.ones(1, 1, 4, 4)
    >>> insertion_auc(model, x, x, torch.tensor([1])).shape
    torch.Size([1])
    """
    start = _baseline(inputs, baseline)
    return _auc(model, start, inputs, maps, target, steps, kind, chunk)


def deletion_auc(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    steps: int = 16,
    baseline: str = "zero",
    kind: str = "auto",
    chunk: int = 64,
) -> Tensor:
    """Area under the confidence while pixels vanish from the picture, most important first. Lower is better.

    Parameters and result as for `insertion_auc`; the picture ends as the baseline.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> x = torch.ones(1, 1, 4, 4)
    >>> deletion_auc(model, x, x, torch.tensor([1])).shape
    torch.Size([1])
    """
    end = _baseline(inputs, baseline)
    return _auc(model, inputs, end, maps, target, steps, kind, chunk)


def random_maps(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Maps with the power spectrum of the given ones and random phases: as smooth, but about nothing.

    Parameters
    ----------
    maps : Tensor
        ``[..., H, W]``.
    generator : torch.Generator
        On the CPU, so that all devices see the same maps.

    Returns
    -------
    Tensor
        ``[..., H, W]`` with the same mean and the same energy at each spatial frequency.

    Examples
    --------
    >>> import torch
    >>> maps = torch.rand(2, 1, 8, 8)
    >>> noise = random_maps(maps, torch.Generator().manual_seed(0))
    >>> torch.allclose(torch.fft.rfft2(noise).abs(), torch.fft.rfft2(maps).abs(), atol=1e-4)
    True
    """
    if maps.numel() == 0:
        return maps.float()
    white = torch.randn(maps.shape, generator=generator, dtype=torch.float32).to(maps.device)
    phase = torch.fft.rfft2(white)  # of a real field: conjugate-symmetric, so the result is real
    phase = phase / phase.abs().clamp(min=torch.finfo(torch.float32).tiny)
    phase[..., 0, 0] = 1.0
    spectrum = torch.fft.rfft2(maps.float())
    amplitude = spectrum.abs()
    amplitude[..., 0, 0] = spectrum[..., 0, 0].real
    return torch.fft.irfft2(amplitude * phase, s=maps.shape[-2:])


def _auc(
    model: nn.Module, start: Tensor, end: Tensor, maps: Tensor, target: Tensor, steps: int, kind: str, chunk: int
) -> Tensor:
    n, pixels = len(start), start.shape[2] * start.shape[3]
    if steps < 1:
        raise SettingError(f"steps is {steps}; expected 1 or more")
    if maps.shape != (n, 1, *start.shape[2:]):
        wanted = (n, 1, *start.shape[2:])
        raise SettingError(f"maps are {tuple(maps.shape)}; expected {wanted}, one for each input")
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(pixels, device=maps.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places).reshape(n, 1, *start.shape[2:])
    changed = torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long().to(maps.device)
    curve = torch.zeros(n, steps + 1, device=start.device)
    pairs = torch.cartesian_prod(torch.arange(n, device=maps.device), torch.arange(steps + 1, device=maps.device))
    for part in pairs.split(chunk):
        i, t = part[:, 0], part[:, 1]
        shown = torch.where(rank[i] < changed[t][:, None, None, None], end[i], start[i])
        curve[i, t] = confidence(model, shown, target[i], kind, chunk).to(curve.dtype)
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / steps


def _baseline(inputs: Tensor, name: str) -> Tensor:
    if name == "zero":
        return torch.zeros_like(inputs)
    if name != "blur":
        raise SettingError(f"baseline is {name!r}; expected 'blur' or 'zero'")
    return blur(inputs, max(inputs.shape[2:]) / 20)


def blur(inputs: Tensor, sigma: float) -> Tensor:
    """Pictures ``[n, C, H, W]`` blurred by a Gaussian of ``sigma`` pixels, three sigma wide, edges repeated."""
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=inputs.device, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    n, c, h, w = inputs.shape
    out = inputs.float().reshape(n * c, 1, h, w)
    out = F.conv2d(F.pad(out, (radius, radius, 0, 0), mode="replicate"), kernel.reshape(1, 1, 1, -1))
    out = F.conv2d(F.pad(out, (0, 0, radius, radius), mode="replicate"), kernel.reshape(1, 1, -1, 1))
    return out.reshape(n, c, h, w).to(inputs.dtype)
