from functools import partial

import pytest
import torch

from everlearn.errors import SettingError
from everlearn.explainers import SISE, FrugalSISE, GradCAM, LayerCAM
from everlearn.explainers.frugal_sise import Groups
from everlearn.explainers.fusions import edges, fine_map, fusions, gradient_maps


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


def test_fusions_are_maps_and_constant_ones_are_left_out():
    generator = torch.Generator().manual_seed(0)
    cams, (D, K, grad_cam) = (list(torch.rand(3, 8, 8, generator=generator)) for _ in range(2))
    fine, edge = fine_map(cams), edges(*torch.randn(2, 3, 8, 8, generator=generator))
    found = fusions(D, K, fine, cams, grad_cam, edge)
    assert len(found) == 8 and all(float(f.min()) == 0 and float(f.max()) == 1 for f in found)
    wanted = (D + K) * fine * edge
    torch.testing.assert_close(found[0], (wanted - wanted.min()) / (wanted.max() - wanted.min()))
    zero = torch.zeros(8, 8)
    assert len(fusions(zero, zero, fine, cams, grad_cam, edge)) == 2  # what needs no mask
    assert fusions(zero, zero, zero, [zero] * 3, zero, edge) == []


def test_the_fine_map_leaves_out_the_coarsest_layer_if_there_are_others():
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.rand(3, 8, 8, generator=generator)
    torch.testing.assert_close(fine_map([a, b, c]), fine_map([a, b, torch.zeros(8, 8)]))
    assert fine_map([c]).max() == 1


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


def test_groups_speak_for_their_members():
    """Two shapes among 30 maps: two groups, whose middles are members, and one answer counts for all of a group."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.zeros(6, 6), torch.zeros(6, 6)
    left[:, :2], right[:, 4:] = 1.0, 1.0
    A = torch.stack([left] * 10 + [right] * 20) * (1 + torch.rand(30, 1, 1, generator=generator))
    g = torch.ones(30, 6, 6)
    g[0] = -1.0  # speaks against the class: no mask
    groups = Groups(A, g, most=2)
    assert len(groups.A) == 29 and len(groups.stakes) == 2
    assert sum(groups.stakes) == pytest.approx(1.0) and max(groups.stakes) > 0.6
    of_left = int(groups.group[0])
    assert (groups.group[:9] == of_left).all() and (groups.group[9:] == 1 - of_left).all()
    torch.testing.assert_close(groups.middle(of_left)[0] / groups.middle(of_left).max(), left)
    groups.lost[of_left] = 0.5
    torch.testing.assert_close(groups.map(groups.lost, (6, 6)), 9 * 0.5 * left / left.sum())
    assert not groups.map(groups.kept, (6, 6)).any()


def test_ungrouped_and_asked_by_hand(cnn):
    """One layer: K = Σ Ψ(I ⊙ m) n, D = Σ [Ψ(I) − Ψ(I ⊙ (1 − m))]₊ n, each scaled; (D + K) ⊙ F ⊙ e levelled."""
    from everlearn.explainers.layers import forward_with_maps
    from everlearn.explainers.sise import masks

    model = cnn().eval()
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    given = x.clone().requires_grad_()
    logits, (first, _) = forward_with_maps(model, given)
    psi = logits.softmax(1)[0, 1]
    g, at_input = torch.autograd.grad(torch.logit(psi), [first.tensor, given])
    A = first.tensor.detach()
    assert A.shape[2:] == (16, 16)  # as large as the picture: n needs no enlarging
    D, K = torch.zeros(16, 16), torch.zeros(16, 16)
    for k in range(6):
        if g[0, k].sum() > 0 and A[0, k].max() > A[0, k].min():
            m = masks(A[0, k][None], (16, 16))[0]
            with torch.no_grad():
                K += model(x * m).softmax(1)[0, 1] * m / m.sum()
                D += (psi - model(x * (1 - m)).softmax(1)[0, 1]).clamp(min=0) * m / m.sum()
    assert D.any()
    scale = lambda v: (v - v.min()) / (v.max() - v.min())  # noqa: E731
    F = fine_map([(A[0] * g[0].clamp(min=0)).sum(0).clamp(min=0)])
    pixels = (x * at_input).abs()[0, 0]
    e = (pixels / pixels.mean() + 0.01) ** 0.25
    found = FrugalSISE(model, "2", settled=1.0, precision="float32", choose=False).attribute(x, 1)[0, 0]
    wanted = (scale(D) + scale(K)) * F * e
    v = wanted / wanted.flatten().sort().values[250]  # 98 % of 256
    torch.testing.assert_close(found, scale(v / (1 + v**4) ** 0.25) ** 2, rtol=1e-3, atol=1e-4)


def test_it_is_cheaper_than_sise(quadrant, spots):
    seen = []
    for method in (SISE, partial(FrugalSISE, merged=4)):
        model = Counter(
            torch.nn.Sequential(torch.nn.Conv2d(1, 400, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(400, 400, 3, 2))
        )
        model.model.extend(
            [torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(400, 2)]
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
