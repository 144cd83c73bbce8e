"""Augmentation of batches: what each operation may do to a picture, and what it may not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from everlearn.learners.augment import OPERATIONS, Augment, _hue_turns, colour, crop, flip, grey, resized_crop


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, channels=3, size=16, seed=0):
    return torch.rand(n, channels, size, size, generator=seeded(seed))


@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=5),
    n=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([8, 13]),
)
@settings(max_examples=40, deadline=None)
def test_shape_type_and_range_stay(names, n, channels, size):
    augment = Augment.of(",".join(names))
    x = (pictures(n, channels, size) * 255).to(torch.uint8)
    seen = augment(x, seeded())
    assert seen.shape == x.shape and seen.dtype == torch.uint8
    floats = augment(x.float() / 255, seeded())
    assert floats.shape == x.shape and (n == 0 or (floats.min() >= -1e-4 and floats.max() <= 1 + 1e-4))
    assert ((floats * 255).round().clamp(0, 255) == seen).all()  # bytes and floats see the same draws
    assert torch.equal(augment(x, seeded()), seen)


def test_a_crop_is_a_shift_with_zeros_coming_in():
    x = pictures(60)
    seen = crop(x, seeded(1))
    shifts = set()
    for before, after in zip(F.pad(x, (2, 2, 2, 2)), seen):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(before[:, i : i + 16, j : j + 16], after)]
        assert len(found) == 1
        shifts |= set(found)
    assert len(shifts) > 15  # of 25


def test_a_flip_is_the_picture_or_its_mirror():
    x = pictures(400, size=8)
    seen = flip(x, seeded())
    mirrored = torch.tensor([torch.equal(a.flip(2), b) for a, b in zip(x, seen)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(x, seen)])
    assert (mirrored ^ same).all()
    assert abs(mirrored.sum() - 200) < 50  # 5 deviations


def test_a_resized_crop_of_a_ramp_is_a_flatter_ramp():
    ramp = torch.linspace(0, 1, 32).expand(50, 1, 32, 32)
    seen = resized_crop(ramp, seeded())
    inner = seen[:, :, :, 4:-4]
    slopes = inner.diff(dim=3)
    assert (slopes > 0).all() and (slopes < 1.05 / 31).all()
    assert (slopes.amax((1, 2, 3)) - slopes.amin((1, 2, 3)) < 1e-4).all()  # still a ramp
    shares = slopes.mean((1, 2, 3)) * 31
    assert shares.min() > 0.38 and shares.max() > 0.85  # √(0.2 · 3/4) = 0.39 to 1


def test_resized_crops_of_the_whole_are_the_picture():
    x = pictures(3)
    generator = seeded()
    seen = torch.stack([resized_crop(x, generator, least=1.0) for _ in range(40)])
    differences = (seen - x).abs().amax((1, 2, 3, 4))
    assert differences.min() < 0.2  # the ratio alone still draws; nearly square ones come close


def test_grey_pictures_have_one_luma():
    x = pictures(300, size=8)
    seen = grey(x, seeded())
    turned = (seen[:, 0] == seen[:, 1]).flatten(1).all(1)
    assert abs(turned.sum() - 60) < 35
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    torch.testing.assert_close(seen[turned][:, 2], luma[turned])
    assert torch.equal(seen[~turned], x[~turned])


def test_colour_leaves_a_share_alone_and_greys_without_colour():
    x = pictures(300, size=8)
    alone = (colour(x, seeded()) == x).flatten(1).all(1)
    assert abs(alone.sum() - 60) < 35
    flat = x.mean(1, keepdim=True).expand_as(x)
    seen = colour(flat, seeded(), strength=0.2)
    torch.testing.assert_close(seen[:, 0], seen[:, 2], atol=1e-3, rtol=0)  # grey has no hue to turn


def test_a_hue_turn_keeps_the_luma_and_returns_after_a_circle():
    turns = _hue_turns(torch.tensor([0.0, 1.0, 2 * torch.pi]))
    torch.testing.assert_close(turns[0], torch.eye(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(turns[2], torch.eye(3), atol=1e-4, rtol=0)
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(weights @ turns[1], weights, atol=1e-4, rtol=0)
    assert (turns[1] - torch.eye(3)).abs().max() > 0.1


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_global_random_state_stays(name):
    random = torch.random.get_rng_state()
    Augment.of(name)(pictures(4), seeded())
    assert torch.equal(random, torch.random.get_rng_state())
