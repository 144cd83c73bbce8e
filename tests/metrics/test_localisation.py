import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.metrics.localisation import (
    box_regions,
    box_share,
    energy_in_region,
    pointing_game,
    resize_regions,
    top_iou,
)


def by_hand(heatmap, region, share, tolerance):
    """All four in numpy, pixel by pixel."""
    pixels = sorted(np.ndindex(heatmap.shape), key=lambda p: (-heatmap[p], p))
    inside = {p for p in pixels if region[p]}
    energy = sum(max(heatmap[p], 0) for p in pixels)
    ebpg = sum(max(heatmap[p], 0) for p in inside) / energy if energy else 0.0
    top = set(pixels[: round(share * len(pixels))])
    iou = len(top & inside) / len(top | inside)
    box = len(set(pixels[: len(inside)]) & inside) / len(inside)
    y, x = pixels[0]
    hit = any((y - r) ** 2 + (x - c) ** 2 <= tolerance**2 for r, c in inside)
    return ebpg, iou, box, float(hit)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 9), st.integers(0, 3))
def test_all_equal_the_definitions(seed, h, w, tolerance):
    rng = np.random.default_rng(seed)
    heatmap = rng.integers(-2, 4, (h, w)).astype("f")
    region = rng.random((h, w)) < 0.4
    region.flat[0] = True
    maps, regions = torch.from_numpy(heatmap)[None, None], torch.from_numpy(region)[None, None]
    found = [
        energy_in_region(maps, regions),
        top_iou(maps, regions, 0.3),
        box_share(maps, regions),
        pointing_game(maps, regions, tolerance),
    ]
    assert [f.item() for f in found] == pytest.approx(by_hand(heatmap, region, 0.3, tolerance), abs=1e-5)


def test_a_picture_without_a_region_gives_nan_and_none_gives_none():
    maps, regions = torch.rand(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    regions[1] = True
    for metric in (energy_in_region, top_iou, box_share, pointing_game):
        values = metric(maps, regions)
        assert values.isnan().tolist() == [True, False]
        assert metric(maps[:0], regions[:0]).shape == (0,)


def test_boxes():
    regions = box_regions([[(0.25, 0.5, 0.75, 1.0), (0, 0, 0.25, 0.25)], []], 4, 8)
    assert regions[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
    ]
    assert not regions[1].any()
    assert torch.equal(resize_regions(regions, (8, 16))[:, :, ::2, ::2], regions)


def test_what_does_not_fit():
    maps, regions = torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(SettingError, match=r"expected .* bools of the same shape"):
        energy_in_region(maps, regions.float())
    with pytest.raises(SettingError, match="share is 0"):
        top_iou(maps, regions, 0)
    with pytest.raises(SettingError, match="tolerance is -1"):
        pointing_game(maps, regions, -1)
