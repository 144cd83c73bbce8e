"""Does a map fall on what a person marked? Energy, overlap, box and pointing game against regions.

A map can be faithful and miss the region, where the model looks elsewhere: these measure model and map together.
A region is a mask ``[n, 1, H, W]`` of bools; `box_regions` makes one from boxes. A picture without a region gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import SettingError


def energy_in_region(maps: Tensor, regions: Tensor) -> Tensor:
    """EBPG, the energy-based pointing game: the share of the map's energy that lies inside (arXiv 1910.01279).

    Parameters
    ----------
    maps, regions : Tensor
        ``[n, 1, H, W]`` floating point (negative values count as none) and bool.

    Returns
    -------
    Tensor
        ``[n]``, 0 to 1; 0 for a map without energy.

    Examples
    --------
    >>> import torch
    >>> maps = torch.tensor([[[[3.0, 1.0]]]])
    >>> energy_in_region(maps, torch.tensor([[[[True, False]]]]))
    tensor([0.7500])
    """
    _check(maps, regions)
    energy = maps.clamp(min=0).flatten(1).double()
    inside = (energy * regions.flatten(1)).sum(1)
    return _marked(inside / energy.sum(1).clamp(min=torch.finfo(torch.float64).tiny), regions)


def top_iou(maps: Tensor, regions: Tensor, share: float = 0.2) -> Tensor:
    """Intersection over union of the map's top pixels with the region; its mean over pictures is the mIoU.

    Parameters
    ----------
    maps, regions : Tensor
        ``[n, 1, H, W]``.
    share : float
        Of all pixels, the highest ones; equal values keep the pixels' order.

    Examples
    --------
    >>> import torch
    >>> maps = torch.arange(10.0).reshape(1, 1, 1, 10)
    >>> top_iou(maps, maps >= 7)
    tensor([0.6667])
    """
    _check(maps, regions)
    if not 0 < share <= 1:
        raise SettingError(f"share is {share}; expected a share of the pixels, above 0 and at most 1")
    top = top_pixels(maps, round(share * maps[0, 0].numel()) if len(maps) else 0)
    inside = regions.flatten(1)
    both, either = (top & inside).sum(1), (top | inside).sum(1)
    return _marked(both.double() / either.clamp(min=1), regions)


def box_share(maps: Tensor, regions: Tensor) -> Tensor:
    """Bbox: of the map's top pixels, as many as the region has, the share inside it (arXiv 2001.00396).

    Examples
    --------
    >>> import torch
    >>> maps = torch.arange(10.0).reshape(1, 1, 1, 10)
    >>> box_share(maps, (maps >= 4) & (maps < 9))
    tensor([0.8000])
    """
    _check(maps, regions)
    inside = regions.flatten(1)
    size = inside.sum(1, keepdim=True)
    hits = ((_ranks(maps) < size) & inside).sum(1)
    return _marked(hits.double() / size[:, 0].clamp(min=1), regions)


def pointing_game(maps: Tensor, regions: Tensor, tolerance: int = 15) -> Tensor:
    """Whether the map's highest pixel lies in the region or within ``tolerance`` pixels of it (arXiv 1608.00507).

    Examples
    --------
    >>> import torch
    >>> maps = torch.arange(10.0).reshape(1, 1, 1, 10)
    >>> pointing_game(maps, maps == 7, tolerance=2), pointing_game(maps, maps == 6, tolerance=2)
    (tensor([1.]), tensor([0.]))
    """
    _check(maps, regions)
    if tolerance < 0:
        raise SettingError(f"tolerance is {tolerance}; expected 0 or more pixels")
    n, _, h, w = maps.shape
    best = maps.flatten(1).argmax(1) if n else torch.zeros(0, dtype=torch.int64)
    y, x = best // w, best % w
    rows, columns = torch.arange(h, device=maps.device), torch.arange(w, device=maps.device)
    far = (rows[None, :, None] - y[:, None, None]) ** 2 + (columns - x[:, None])[:, None] ** 2
    return _marked(((far <= tolerance**2) & regions[:, 0]).any(2).any(1).double(), regions)


def box_regions(boxes: list[list[tuple[float, float, float, float]]], height: int, width: int) -> Tensor:
    """Regions ``[n, 1, height, width]`` of boxes (left, top, right, bottom) in shares of the picture, some for each.

    A pixel is inside if its centre is.

    Examples
    --------
    >>> box_regions([[(0.0, 0.0, 0.5, 1.0)]], 1, 4)
    tensor([[[[ True,  True, False, False]]]])
    """
    regions = torch.zeros(len(boxes), 1, height, width, dtype=torch.bool)
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    for region, marked in zip(regions, boxes):
        for left, top, right, bottom in marked:
            region |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return regions


def top_pixels(maps: Tensor, count: int) -> Tensor:
    """``[n, H W]``: whether a pixel is among the map's ``count`` highest; equal values keep the pixels' order."""
    return _ranks(maps) < count


def _ranks(maps: Tensor) -> Tensor:
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _marked(values: Tensor, regions: Tensor) -> Tensor:
    return torch.where(regions.flatten(1).any(1), values, torch.nan).float()


def _check(maps: Tensor, regions: Tensor) -> None:
    if maps.shape != regions.shape or maps.ndim != 4 or maps.shape[1] != 1 or regions.dtype != torch.bool:
        found = f"{tuple(maps.shape)} and {regions.dtype} {tuple(regions.shape)}"
        raise SettingError(f"maps and regions are {found}; expected [n, 1, H, W] and bools of the same shape")


def resize_regions(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Regions at another size, by the nearest pixel.

    Examples
    --------
    >>> import torch
    >>> resize_regions(torch.tensor([[[[True, False]]]]), (1, 4))
    tensor([[[[ True,  True, False, False]]]])
    """
    return F.interpolate(regions.float(), size=size, mode="nearest") > 0.5
