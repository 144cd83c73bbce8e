import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from everlearn.errors import SettingError
from everlearn.metrics.confidence import log_odds, probabilities
from everlearn.metrics.faithfulness import blur, deletion_auc, insertion_auc, random_maps
from everlearn.metrics.verdict import measure, verdict


class Weighted(nn.Module):
    """Two classes from a weighted sum of all pixels."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        z = (x * self.weights).sum((1, 2, 3))
        return torch.stack([-z, z], 1)


def by_hand(start, end, heatmap, weights, steps):
    """The usual definition in numpy: one picture, one pixel at a time."""
    order = np.argsort(-heatmap.ravel(), kind="stable")
    shown = start.copy()
    curve, done = [], 0
    for t in range(steps + 1):
        upto = round(t * order.size / steps)
        for pixel in order[done:upto]:
            row, column = divmod(int(pixel), heatmap.shape[1])
            shown[:, row, column] = end[:, row, column]
        done = upto
        z = float((shown * weights).sum())
        curve.append(1 / (1 + np.exp(-2 * z)))
    return np.trapezoid(curve, dx=1 / steps)


@pytest.mark.parametrize(("steps", "chunk"), [(1, 64), (5, 3), (36, 64)])
def test_both_equal_the_definition(steps, chunk):
    rng = np.random.default_rng(0)
    x, maps = rng.normal(size=(3, 2, 6, 6)).astype("f"), rng.random((3, 1, 6, 6)).astype("f")
    maps[0, 0, :3] = 0.5  # ties
    weights = rng.normal(size=(2, 6, 6)).astype("f") / 4
    model = Weighted(torch.from_numpy(weights))
    tensors = (model, torch.from_numpy(x), torch.from_numpy(maps), torch.ones(3, dtype=torch.int64))
    inserted = insertion_auc(*tensors, steps=steps, baseline="zero", chunk=chunk)
    deleted = deletion_auc(*tensors, steps=steps, chunk=chunk)
    for i in range(3):
        zero = np.zeros_like(x[i])
        assert inserted[i].item() == pytest.approx(by_hand(zero, x[i], maps[i, 0], weights, steps), abs=1e-5)
        assert deleted[i].item() == pytest.approx(by_hand(x[i], zero, maps[i, 0], weights, steps), abs=1e-5)
    blurred = blur(torch.from_numpy(x), 6 / 20).numpy()
    inserted = insertion_auc(*tensors, steps=steps, chunk=chunk)
    assert inserted[1].item() == pytest.approx(by_hand(blurred[1], x[1], maps[1, 0], weights, steps), abs=1e-5)


def test_blur_equals_scipy():
    from scipy.ndimage import gaussian_filter

    x = np.random.default_rng(0).random((1, 2, 12, 15)).astype("f")
    wanted = gaussian_filter(x, (0, 0, 2.0, 2.0), mode="nearest", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(blur(torch.from_numpy(x), 2.0).numpy(), wanted, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_random_maps_keep_spectrum_and_mean(h, w, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 1, h, w, generator=generator)
    noise = random_maps(maps, generator)
    assert noise.shape == maps.shape
    # where a frequency is its own mirror image its phase can only be 0 or π: rounding there costs a little
    torch.testing.assert_close(torch.fft.fft2(noise).abs(), torch.fft.fft2(maps).abs(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise.mean((2, 3)), maps.mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_random_maps_differ_and_repeat():
    maps = torch.rand(1, 1, 8, 8)
    first = random_maps(maps, torch.Generator().manual_seed(0))
    assert torch.equal(first, random_maps(maps, torch.Generator().manual_seed(0)))
    assert not torch.allclose(first, random_maps(maps, torch.Generator().manual_seed(1)), atol=1e-3)
    assert torch.isfinite(random_maps(torch.zeros(1, 1, 8, 8), torch.Generator())).all()


def test_a_true_map_is_supported_and_a_wrong_one_is_not():
    weights = torch.zeros(1, 16, 16)
    weights[:, 2:6, 9:13] = 0.1
    weights[:, 10:14, 2:6] = -0.1
    model, target = Weighted(weights), torch.ones(2, dtype=torch.int64)
    x = (weights != 0).float().expand(2, 1, 16, 16)
    maps = torch.stack([weights, -weights])
    true, wrong = measure(model, x, maps, target)
    assert (true.verdict, wrong.verdict) == ("supported", "not supported")
    assert true.insertion > true.random_insertion and true.deletion < true.random_deletion
    constant = measure(model, x[:1], torch.ones(1, 1, 16, 16), target[:1])[0]
    assert constant.verdict == "not supported"
    deaf = measure(Weighted(torch.zeros(1, 16, 16)), x[:1], maps[:1], target[:1])[0]
    assert deaf.verdict == "not supported"


def test_verdict_is_seldom_given_to_noise():
    """Among equals about one in twenty is called supported: what the 95 % interval promises."""
    draws = torch.randn(4000, 9, generator=torch.Generator().manual_seed(0)).tolist()
    share = sum(verdict(row[0], row[1:]) == "supported" for row in draws) / 4000
    assert 0.035 < share < 0.065


def test_probabilities():
    z = torch.tensor([[0.3], [-2.0]])
    torch.testing.assert_close(probabilities(z), torch.cat([1 - z.sigmoid(), z.sigmoid()], 1))
    assert torch.equal(probabilities(z, "none"), z)
    many = torch.tensor([[0.0, 1.0, -1.0]])
    torch.testing.assert_close(probabilities(many), many.softmax(1))
    torch.testing.assert_close(probabilities(many, "sigmoid"), many.sigmoid())
    with pytest.raises(SettingError, match="confidence is 'odds'"):
        probabilities(z, "odds")


@pytest.mark.parametrize("kind", ["auto", "sigmoid"])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_log_odds_are_those_of_the_confidence(kind, columns):
    logits = torch.randn(4, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in range(max(columns, 2)):
        p = probabilities(logits, kind)[:, t]
        torch.testing.assert_close(log_odds(logits, torch.full((4,), t), kind), (p / (1 - p)).log())


def test_nothing_to_measure():
    model = Weighted(torch.ones(1, 4, 4))
    empty = torch.zeros(0, 1, 4, 4)
    assert insertion_auc(model, empty, empty, torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert measure(model, empty, empty, torch.zeros(0, dtype=torch.int64)) == []


def test_what_does_not_fit():
    model, x, target = Weighted(torch.ones(1, 4, 4)), torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(SettingError, match="steps is 0"):
        insertion_auc(model, x, x, target, steps=0)
    with pytest.raises(SettingError, match="baseline is 'snow'; expected 'blur' or 'zero'"):
        deletion_auc(model, x, x, target, baseline="snow")
    with pytest.raises(SettingError, match=r"maps are \(2, 4, 4\); expected \(2, 1, 4, 4\)"):
        insertion_auc(model, x, x[:, 0], target)
    with pytest.raises(SettingError, match="random is 1; expected 2 or more"):
        measure(model, x, x, target, random=1)
