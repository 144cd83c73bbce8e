"""Each method against its formula written out for a model whose gradients are known."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers import (
    RISE,
    AdaSISE,
    CaptumAdapter,
    GradCAMPlusPlus,
    IntegratedGradCAM,
    LayerCAM,
    RefineCAM,
    ScoreCAM,
)


@pytest.fixture
def named():
    """A = ReLU(conv x), logits = W Σ_ij A²: the gradient 2 w_k A_k differs from place to place."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU())

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = conv, nn.Linear(5, 3)

        def forward(self, x):
            return self.head((self.conv(x) ** 2).flatten(2).sum(2))

    return Model(), torch.randn(2, 1, 8, 8)


def test_layer_cam(named):
    model, x = named
    A, w = model.conv(x).detach(), model.head.weight[2].detach()
    wanted = (F.relu(2 * w[:, None, None] * A) * A).sum(1).relu()
    torch.testing.assert_close(LayerCAM(model, "conv").attribute(x, 2)[:, 0], wanted)


def test_grad_cam_plus_plus(named):
    model, x = named
    A, w = model.conv(x).detach(), model.head.weight[2].detach()
    g = 2 * w[:, None, None] * A
    total = torch.zeros(2, 8, 8)
    for n in range(2):
        for k in range(5):
            weight = 0.0
            for i in range(8):
                for j in range(8):
                    below = 2 * g[n, k, i, j] ** 2 + A[n, k].sum() * g[n, k, i, j] ** 3
                    if below != 0:
                        weight += g[n, k, i, j] ** 2 / below * max(g[n, k, i, j], torch.tensor(0.0))
            total[n] += weight * A[n, k]
    torch.testing.assert_close(GradCAMPlusPlus(model, "conv").attribute(x, 2)[:, 0], total.relu(), rtol=1e-3, atol=1e-5)


def test_refine_cam(cnn):
    """The product of Grad-CAM++'s maps of each layer, scaled; a layer with a constant map is passed over."""
    model, x = cnn().eval(), torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    maps = [GradCAMPlusPlus(model, name).attribute(x, 1)[0, 0] for name in ("0", "4")]
    assert all(bool(m.any()) for m in maps)
    low, high = ((m - m.min()) / (m.max() - m.min()) for m in maps)
    wanted = (low * high - (low * high).min()) / ((low * high).max() - (low * high).min())
    torch.testing.assert_close(RefineCAM(model, ["0", "4"]).attribute(x, 1)[0, 0], wanted)


def test_refine_cam_passes_over_a_layer_that_speaks_against_the_class():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.against, self.speaks = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, x):
            y = self.speaks(x).relu().sum((1, 2, 3)) - self.against(x).relu().sum((1, 2, 3))
            return torch.stack([-y, y], 1)

    torch.manual_seed(0)
    model, x = Two(), torch.randn(1, 1, 8, 8)
    alone = GradCAMPlusPlus(model, "speaks").attribute(x, 1)
    assert not GradCAMPlusPlus(model, "against").attribute(x, 1).any() and alone.any()
    found = RefineCAM(model, ["against", "speaks"]).attribute(x, 1)
    torch.testing.assert_close(found, (alone - alone.min()) / (alone.max() - alone.min()))


def test_integrated_grad_cam(named):
    model, x = named
    w = model.head.weight[2].detach()
    total = 0
    for t in range(1, 8):
        A = model.conv(x * t / 7).detach()
        a = (2 * w[:, None, None] * A).mean((2, 3), keepdim=True)
        total = total + (a * A).sum(1).relu() / 7
    found = IntegratedGradCAM(model, "conv", steps=7, chunk=3).attribute(x, 2)[:, 0]
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-5)


def test_score_cam(named):
    model, x = named
    A = model.conv(x).detach()
    for n in range(2):
        z = []
        for k in range(5):
            m = (A[n, k] - A[n, k].min()) / (A[n, k].max() - A[n, k].min())
            z.append(model(x[n : n + 1] * m)[0, 2])
        wanted = torch.einsum("k,khw->hw", torch.stack(z).softmax(0), A[n]).relu()
        found = ScoreCAM(model, "conv", chunk=2).attribute(x[n : n + 1], 2)[0, 0]
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)


def test_ada_sise_takes_the_upper_group(cnn):
    alpha = torch.tensor([0.1, 0.12, 0.9, 1.0, -3.0, 0.0])
    assert AdaSISE(cnn()).select(alpha).tolist() == [2, 3]
    assert AdaSISE(cnn()).select(torch.tensor([0.5, 0.5, -1.0])).tolist() == [0, 1]
    assert AdaSISE(cnn()).select(torch.tensor([-0.5, 0.0])).tolist() == []


class OnePlace(nn.Module):
    def forward(self, x):
        light = x[:, 0, 2:5, 10:13].mean((1, 2))
        return torch.stack([torch.zeros_like(light), 6 * light - 3], 1)


def test_rise_finds_the_place():
    heatmap = RISE(OnePlace(), samples=600).attribute(torch.ones(1, 1, 16, 16), 1)[0, 0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[1:6, 9:14] = True
    assert inside.flatten()[heatmap.flatten().argmax()]
    assert heatmap[inside].mean() > 2 * heatmap[~inside].mean()


def test_rise_masks_show_their_share():
    method = RISE(OnePlace(), shown=0.3, samples=500)
    m = method.masks(*method.grids(torch.Generator().manual_seed(0)), 20, 33)
    assert m.shape == (500, 20, 33) and m.min() >= 0 and m.max() <= 1
    assert m.mean(0).min() > 0.2 and m.mean(0).max() < 0.4


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion"])
def test_captum_on_a_linear_model(method):
    """Integrated Gradients, SHAP and input × gradient of a linear model are w ⊙ x exactly; occlusion of 1 pixel too."""
    pytest.importorskip("captum")
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, 3))
    x = torch.randn(2, 2, 6, 6)
    wanted = (model[1].weight[1].detach().reshape(2, 6, 6) * x).sum(1)
    found = CaptumAdapter(model, method=method, window=1).attribute(x, 1)[:, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_captum_leaves_the_random_states(cnn):
    pytest.importorskip("captum")
    import numpy as np

    np.random.seed(3)  # noqa: NPY002
    CaptumAdapter(cnn(), method="gradient_shap").attribute(torch.randn(1, 1, 16, 16))
    after = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    assert after == np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(IntegratedGradCAM, steps=0), "steps is 0; expected 1 or more"),
        (partial(RISE, samples=0), "samples is 0, cells 7, shown 0.5"),
        (partial(RISE, shown=1.0), "shown 1.0"),
        (partial(CaptumAdapter, method="magic"), "method is 'magic'; expected one of integrated_gradients"),
        (partial(CaptumAdapter, steps=0), "steps is 0 and window is None"),
    ],
)
def test_settings_out_of_range(build, message):
    with pytest.raises(SettingError, match=message):
        build(OnePlace())


def test_score_cam_of_a_single_map():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.zero_()
    x = torch.zeros(1, 1, 12, 12)
    x[..., :4, :4] = 1
    heat = ScoreCAM(model).attribute(x, torch.tensor([0]))[0, 0]
    assert heat[:5, :5].sum() > 0.5 * heat.sum() > 0
