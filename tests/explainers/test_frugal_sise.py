from functools import partial

import pytest
import torch

from everlearn.errors import SettingError
from everlearn.explainers import SISE, FrugalSISE, GradCAM, LayerCAM
from everlearn.explainers.fusions import fusions, gradient_maps, product


class Counter(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, x):
        self.seen += len(x)
        return self.model(x)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_finds_the_quadrant_that_the_model_looks_at(quadrant, spots, precision):
    maps = FrugalSISE(quadrant, precision=precision).attribute(spots, target=1)
    assert (maps[:, 0, :8, 8:].sum((1, 2)) / maps.sum((1, 2, 3)) > 0.8).all()


def test_the_fusion_that_the_model_confirms_is_taken(quadrant, spots):
    """Of a map on the right quadrant and one on the wrong one, the model confirms the right one."""
    right, wrong = torch.zeros(16, 16), torch.zeros(16, 16)
    right[2:6, 10:14], wrong[10:14, 2:6] = 1.0, 1.0
    method, target = FrugalSISE(quadrant.eval(), precision="float32"), torch.tensor([1])
    for candidates in ([right, wrong], [wrong, right]):
        assert method.confirmed(spots[:1], target, candidates) is right


def test_fusions_are_maps_and_those_without_energy_are_left_out():
    generator = torch.Generator().manual_seed(0)
    V, a, b = (list(torch.rand(3, 8, 8, generator=generator)) for _ in range(3))
    found = fusions(V, a, b)
    assert len(found) == 6 and all(float(f.min()) >= 0 and float(f.max()) == 1 for f in found)
    torch.testing.assert_close(found[0], product(V))
    zero = torch.zeros(8, 8)
    assert len(fusions(V, [zero] * 3, [zero] * 3)) == 1
    assert len(fusions(V[:1], a[:1], b[:1])) == 4  # one layer has no finer ones


def test_gradient_maps_are_those_of_the_papers(cnn):
    model = cnn().eval()
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    ((A, g),) = LayerCAM(model, "4").maps_and_gradients(x, torch.tensor([1]), of="logit", last=True)
    layer_cam, grad_cam = gradient_maps(A[0], g[0], (16, 16))
    torch.testing.assert_close(grad_cam, GradCAM(model, "4").attribute(x, 1)[0, 0])
    torch.testing.assert_close(layer_cam.clamp(min=0), LayerCAM(model, "4").attribute(x, 1)[0, 0])


@pytest.mark.parametrize("budget", [4, 7, 12, 60, 100])
def test_the_budget_holds(cnn, budget):
    model = Counter(cnn())
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = FrugalSISE(model, budget=budget, settled=1.0).attribute(x, 1)
    assert 1 <= model.seen <= budget and torch.isfinite(maps).all()


def test_asking_ends_when_the_map_has_settled(cnn):
    seen = []
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    wide = torch.nn.Sequential(
        torch.nn.Conv2d(1, 80, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(80, 80, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(80, 3),
    )
    for settled in (1.0, 0.01):
        model = Counter(wide)
        FrugalSISE(model, merged=80, budget=400, settled=settled, choose=False).attribute(x, 1)
        seen.append(model.seen)
    assert seen[1] < seen[0]
    model = Counter(wide)
    FrugalSISE(model, merged=80, budget=400, settled=1.0, seconds=1e-9).attribute(x, 1)
    assert model.seen == 2 + 2 * 16  # no round starts after the time


def test_merging_keeps_what_the_maps_contribute(cnn):
    generator = torch.Generator().manual_seed(0)
    A, g = torch.rand(30, 6, 6, generator=generator), torch.randn(30, 6, 6, generator=generator)
    sums, stakes = FrugalSISE(cnn(), merged=4).merge(A, g)
    alpha = g.sum((1, 2))
    positive = (alpha[:, None, None] * A)[alpha > 0]
    assert len(sums) <= 4
    torch.testing.assert_close(sums.sum(0), positive.sum(0))
    torch.testing.assert_close(stakes.sum(), positive.sum())


def test_unmerged_and_asked_by_hand(cnn):
    """One layer, no merging: w = Ψ(I ⊙ m) [Ψ(I) − Ψ(I ⊙ (1 − m))]₊; Σ w m over Σ_λ m, scaled, squared."""
    from everlearn.explainers.layers import forward_with_maps
    from everlearn.explainers.sise import masks

    model = cnn().eval()
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    logits, (first, _) = forward_with_maps(model, x)
    psi = logits.softmax(1)[0, 1]
    (g,) = torch.autograd.grad(psi, first.tensor)
    matters, suffices = torch.zeros(12, 12), torch.zeros(12, 12)
    for k in range(6):
        A = first.tensor.detach()[0, k]
        if g[0, k].sum() > 0 and A.max() > A.min():
            m = masks(A[None], (12, 12))[0]
            with torch.no_grad():
                kept = model(x * m).softmax(1)[0, 1]
                lost = psi.detach() - model(x * (1 - m)).softmax(1)[0, 1]
            matters += kept * lost.clamp(min=0) * m / m.sum()
            suffices += kept * m / m.sum()
    V = matters if matters.any() else suffices
    wanted = ((V - V.min()) / (V.max() - V.min())) ** 2
    found = FrugalSISE(model, "2", merged=100, settled=1.0, precision="float32", choose=False)
    torch.testing.assert_close(found.attribute(x, 1)[0, 0], wanted, rtol=1e-3, atol=1e-4)


def test_it_is_cheaper_than_sise(quadrant, spots):
    seen = []
    for method in (SISE, partial(FrugalSISE, merged=4)):
        model = Counter(
            torch.nn.Sequential(torch.nn.Conv2d(1, 200, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(200, 200, 3, 2))
        )
        model.model.extend(
            [torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(200, 2)]
        )
        torch.manual_seed(0)
        for p in model.parameters():
            torch.nn.init.uniform_(p, -0.1, 0.2)
        method(model).attribute(spots[:1], 1)
        seen.append(model.seen)
    assert seen[1] < seen[0] / 2


@pytest.mark.parametrize(
    "settings", [{"merged": 0}, {"budget": 3}, {"settled": 0.0}, {"settled": 1.5}, {"seconds": 0.0}]
)
def test_settings_out_of_range(cnn, settings):
    with pytest.raises(SettingError, match="expected 1 or more, 4 or more forwards"):
        FrugalSISE(cnn(), **settings)
    with pytest.raises(SettingError, match="precision is 'half'"):
        FrugalSISE(cnn(), precision="half")
    with pytest.raises(SettingError, match="sharpness is 0"):
        FrugalSISE(cnn(), sharpness=0)
