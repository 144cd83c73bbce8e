import numpy as np
import pytest
import torch
from torch import nn

from everlearn.errors import SettingError
from everlearn.metrics.drop import drop_increase_gain
from everlearn.metrics.robustness import infidelity, random_squares, sensitivity, spearman, weight_randomisation


class Weighted(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        z = (x * self.weights).sum((1, 2, 3))
        return torch.stack([-z, z], 1)


def psi(x, w):
    return 1 / (1 + np.exp(-2 * float((x * w).sum())))


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 2, 6, 6)).astype("f"), rng.normal(size=(2, 6, 6)).astype("f") / 4
    return x, w, Weighted(torch.from_numpy(w)), rng.random((3, 1, 6, 6)).astype("f")


@pytest.mark.parametrize("top", [0.15, 0.5])
def test_drop_increase_gain(problem, top):
    x, w, model, maps = problem
    target = torch.ones(3, dtype=torch.int64)
    found = drop_increase_gain(model, torch.from_numpy(x), torch.from_numpy(maps), target, top=top, chunk=2)
    for i in range(3):
        order = np.argsort(-maps[i, 0].ravel(), kind="stable")[: round(top * 36)]
        shown = np.zeros(36, bool)
        shown[order] = True
        Y, left = psi(x[i], w), psi(x[i] * shown.reshape(6, 6), w)
        assert found.drop[i].item() == pytest.approx(100 * max(0, Y - left) / Y, abs=1e-3)
        assert found.increase[i].item() == 100 * (left > Y)
        assert found.gain[i].item() == pytest.approx(100 * max(0, left - Y) / (1 - Y), abs=1e-3)


def test_infidelity(problem):
    x, w, model, maps = problem
    target = torch.ones(3, dtype=torch.int64)
    found = infidelity(model, torch.from_numpy(x), torch.from_numpy(maps), target, samples=12, seed=5, chunk=5)
    hidden = random_squares(12, 6, 6, 0.25, torch.Generator().manual_seed(5)).numpy()
    for i in range(3):
        a = np.array([maps[i, 0][h].sum() for h in hidden])
        b = np.array([psi(x[i], w) - psi(x[i] * ~h, w) for h in hidden])
        beta = (a * b).mean() / (a * a).mean()
        assert found[i].item() == pytest.approx(((beta * a - b) ** 2).mean(), abs=1e-6)


def test_the_true_map_of_a_linear_output_has_no_infidelity(problem):
    x, w, model, _ = problem
    true = torch.from_numpy((x * w).sum(1, keepdims=True))
    class_1 = torch.ones(3, dtype=torch.int64)
    assert infidelity(model, torch.from_numpy(x), true, class_1, kind="none").max() < 1e-9
    assert infidelity(model, torch.from_numpy(x), torch.zeros(3, 1, 6, 6), class_1, kind="none").min() > 1e-4


def test_squares_are_squares_inside():
    for m in random_squares(50, 9, 14, 0.5, torch.Generator().manual_seed(0)):
        rows, columns = m.any(1).nonzero().flatten(), m.any(0).nonzero().flatten()
        assert len(rows) == len(columns) <= 4 and m.sum() == len(rows) ** 2


def test_sensitivity_of_a_linear_map():
    x = torch.randn(2, 1, 4, 4)
    found = sensitivity(lambda x, t: 2 * x, x, torch.zeros(2), radius=0.1, samples=3, seed=1)
    generator, worst = torch.Generator().manual_seed(1), torch.zeros(2)
    for _ in range(3):
        delta = (torch.rand(2, 1, 4, 4, generator=generator) * 2 - 1) * 0.1
        worst = torch.maximum(worst, delta.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
    torch.testing.assert_close(found, worst)


def test_spearman_equals_scipy():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 5, (3, 1, 4, 5)).astype("f") for _ in range(2))
    found = spearman(torch.from_numpy(a), torch.from_numpy(b))
    assert found.tolist() == pytest.approx([spearmanr(a[i].ravel(), b[i].ravel())[0] for i in range(3)], abs=1e-5)
    assert spearman(torch.ones(1, 1, 2, 2), torch.rand(1, 1, 2, 2)).item() == 0


def test_weight_randomisation_tells_learned_from_edges():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x, target = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])

    def gradient(m):
        def attribute(x, target):
            x = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(m(x).gather(1, target[:, None]).sum(), x)
            return (g * x).detach()

        return attribute

    state = torch.random.get_rng_state()
    learned = weight_randomisation(gradient, model, x, target)
    assert [name for name, _ in learned] == ["4", "0"] and learned[-1][1].abs().max() < 0.9
    edges = weight_randomisation(lambda m: lambda x, t: x.abs(), model, x, target)
    assert all(torch.equal(rho, torch.ones(2)) or rho.min() > 0.999 for _, rho in edges)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_does_not_fit(problem):
    x, _, model, maps = problem
    x, maps, target = torch.from_numpy(x), torch.from_numpy(maps), torch.ones(3, dtype=torch.int64)
    with pytest.raises(SettingError, match="top is 0"):
        drop_increase_gain(model, x, maps, target, top=0)
    with pytest.raises(SettingError, match=r"maps are \(3, 6, 6\)"):
        drop_increase_gain(model, x, maps[:, 0], target)
    with pytest.raises(SettingError, match="samples is 0 and square"):
        infidelity(model, x, maps, target, samples=0)
    with pytest.raises(SettingError, match="radius is 0"):
        sensitivity(lambda x, t: x, x, target, radius=0)
