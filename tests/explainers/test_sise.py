import pytest
import torch
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers import SISE
from everlearn.explainers.layers import forward_with_maps


def test_a_saturated_confidence_does_not_blank_the_map(quadrant, spots):
    assert quadrant.eval()(spots).softmax(1)[0, 1] == 1.0
    assert SISE(quadrant).attribute(spots[:1]).amax() > 0


def energy_share(heatmap):
    return float(heatmap[0, :8, 8:].sum() / heatmap[0].sum())


@pytest.mark.parametrize("threshold", ["hard", "soft"])
def test_finds_the_quadrant_that_the_model_looks_at(quadrant, spots, threshold):
    maps = SISE(quadrant, threshold=threshold).attribute(spots, target=1)
    assert all(energy_share(heatmap) > 0.8 for heatmap in maps)


def by_hand(model, x, target, mu, soft):
    """SISE in its slowest form: one mask at a time, numpy's arithmetic, Otsu by trying every value."""
    logits, maps = forward_with_maps(model, x)
    psi = logits.softmax(1)[0, target]
    gradients = torch.autograd.grad(psi, [m.tensor for m in maps])
    E = None
    for m, g in zip(maps, gradients):
        A, alpha = m.tensor.detach()[0], g[0].sum((1, 2))
        V, used = torch.zeros(x.shape[2:], dtype=torch.float64), 0
        for k in range(len(A)):
            if not (alpha[k] > 0 and alpha[k] / alpha.max() > mu) or A[k].max() == A[k].min():
                continue
            mask = F.interpolate(A[k][None, None], size=x.shape[2:], mode="bilinear")[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            with torch.no_grad():
                score = model(x * mask).softmax(1)[0, target]
            V += (score * mask / mask.sum()).double()
            used += 1
        if not used:
            continue
        V = V / used
        V = (V - V.min()) / (V.max() - V.min())
        values = V.flatten().tolist()
        t = max(set(values), key=lambda t: between(values, t))
        B = torch.sigmoid(100 * (V - t)) if soft else (t < V).double()
        E = V if E is None else (E + V) * B
    return E


def between(values, t):
    low, high = [v for v in values if v <= t], [v for v in values if v > t]
    if not high:
        return -1.0
    return len(low) * len(high) * (sum(high) / len(high) - sum(low) / len(low)) ** 2


@pytest.mark.parametrize(("mu", "threshold"), [(0.0, "hard"), (0.4, "hard"), (0.0, "soft")])
def test_equals_the_paper_done_by_hand(cnn, mu, threshold):
    model = cnn().eval()
    for seed in range(3):
        x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
        found = SISE(model, mu=mu, threshold=threshold, chunk=3).attribute(x, target=1)[0, 0]
        wanted = by_hand(model, x, 1, mu, threshold == "soft").float()
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_scores_tell_apart_what_the_masks_can_tell_apart():
    """Two filters, one for each half; the class depends on the left half only."""
    from torch import nn

    class Halves(nn.Module):
        def forward(self, x):
            side = torch.linspace(1, 0, 16).expand(16, 16)
            A = F.conv2d(torch.cat([x * side, x * (1 - side)], 1), torch.eye(2)[:, :, None, None])
            left, right = F.adaptive_avg_pool2d(A, 1).flatten(1).T
            return torch.stack([torch.zeros_like(left), 20 * left + 0.001 * right - 3], 1)

    x = torch.ones(1, 1, 16, 16)
    heatmap = SISE(Halves(), layers=None).attribute(x, target=1)[0, 0]
    assert heatmap[:, :8].sum() > 2 * heatmap[:, 8:].sum()


def test_a_larger_mu_uses_fewer_masks(cnn):
    explainer = SISE(cnn(), mu=0.5)
    alpha = torch.tensor([1.0, 0.6, 0.5, 0.4, 0.0, -2.0])
    assert explainer.select(alpha).tolist() == [0, 1]
    explainer.mu = 0.0
    assert explainer.select(alpha).tolist() == [0, 1, 2, 3]
    assert explainer.select(-alpha.abs()).tolist() == []


@pytest.mark.parametrize("mu", [-0.1, 1.0])
def test_mu_out_of_range(cnn, mu):
    with pytest.raises(SettingError, match=f"mu is {mu}; expected 0 ≤ mu < 1"):
        SISE(cnn(), mu=mu)


def test_unknown_threshold(cnn):
    with pytest.raises(SettingError, match="threshold is 'firm'; expected 'hard' or 'soft'"):
        SISE(cnn(), threshold="firm")
