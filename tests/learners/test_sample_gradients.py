"""Inner products of single samples' gradients, against one backward pass for each sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.learners import sample_gradients
from everlearn.learners.sample_gradients import gradient_products
from everlearn.models import Model, build_model


def prepared(backbone, **settings):
    model = Model(backbone, **settings)
    model.head.grow(3, torch.Generator().manual_seed(0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
    return model.eval()


def pictures(n=5, channels=3, size=8):
    torch.manual_seed(1)
    return torch.rand(n, channels, size, size), torch.randint(0, 3, (n,))


def each(model, x, y):
    weights = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    G = torch.stack(rows)
    return G @ G.T


def convolutions(last):
    return nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        last,
        nn.Flatten(),
    )


def refuse(*_):
    raise AssertionError("the slow way was taken")


@pytest.mark.parametrize(
    "backbone",
    [
        convolutions(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4, bias=False))),
        convolutions(nn.Sequential(nn.Flatten(2), nn.Linear(28, 1))),  # a linear layer at several places
    ],
)
def test_one_pass_gives_what_one_pass_for_each_sample_gives(backbone, monkeypatch):
    monkeypatch.setattr(sample_gradients, "_one_by_one", refuse)
    torch.manual_seed(0)
    model = prepared(backbone, feature_dim=4)
    x, y = pictures()
    K = each(model, x, y)
    torch.testing.assert_close(gradient_products(model, x, y), K)
    with torch.no_grad():
        torch.testing.assert_close(gradient_products(model, x, y), K)
    assert not any(m._forward_hooks for m in model.modules())


def test_the_slim_network_in_its_own_layout(monkeypatch):
    monkeypatch.setattr(sample_gradients, "_one_by_one", refuse)
    model = build_model("slim_resnet18", channels=3, size=32).to(memory_format=torch.channels_last)
    model.head.grow(3, torch.Generator().manual_seed(0))
    x, y = pictures(4, size=32)
    K = gradient_products(model.eval(), model.prepare(x), y)
    torch.testing.assert_close(K, each(model, x, y), rtol=1e-4, atol=1e-5)


def test_frozen_layers_do_not_count(monkeypatch):
    monkeypatch.setattr(sample_gradients, "_one_by_one", refuse)
    model = prepared(convolutions(nn.AdaptiveAvgPool2d(1)), feature_dim=4)
    model.backbone.requires_grad_(False)
    x, y = pictures()
    torch.testing.assert_close(gradient_products(model, x, y), each(model, x, y))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x).relu()).mean((2, 3))


@pytest.mark.parametrize(
    ("backbone", "d"),
    [
        (Twice(), 3),  # the layer's gradient is a sum of two
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 6),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4),
    ],
)
def test_other_layers_take_the_way_of_one_by_one(backbone, d):
    model = prepared(backbone, feature_dim=d)
    x, y = pictures()
    K = each(model, x, y)
    torch.testing.assert_close(gradient_products(model, x, y), K)
    with torch.no_grad():
        torch.testing.assert_close(gradient_products(model, x, y), K)
