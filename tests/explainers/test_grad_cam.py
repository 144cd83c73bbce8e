import torch
from torch import nn

from everlearn.explainers import GradCAM


def test_equals_the_closed_form_for_pooled_features():
    """With global average pooling and a linear head, Grad-CAM is ReLU(Σ_k w_k A_k) / (h w)."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(5, 2)
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    x = torch.randn(2, 1, 9, 9)
    A = conv(x).relu()
    wanted = torch.einsum("k,nkhw->nhw", head.weight[1], A).relu() / 81
    torch.testing.assert_close(GradCAM(model).attribute(x, target=1)[:, 0], wanted)


def test_finds_the_quadrant(quadrant, spots):
    maps = GradCAM(quadrant).attribute(spots, target=1)
    assert (maps[:, 0, :8, 8:].sum((1, 2)) / maps.sum((1, 2, 3)) > 0.8).all()


def test_one_logit_for_class_0_is_the_negative_of_class_1():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        model[4].weight.abs_()
    assert GradCAM(model).attribute(x, target=1).amax() > 0
    assert GradCAM(model).attribute(x, target=0).amax() == 0
