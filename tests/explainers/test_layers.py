import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.errors import ModelError, SettingError
from everlearn.explainers.layers import _as_map, forward_with_maps
from everlearn.models import build_model


def shapes(model, size=64, channels=3, layers=None):
    x = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    logits, maps = forward_with_maps(model.eval(), x, layers)
    gradients = torch.autograd.grad(logits.float().sum(), [m.tensor for m in maps], allow_unused=True)
    assert all(g is not None for g in gradients)
    return [tuple(m.channels_first().shape[1:]) for m in maps]


def torchvision_model(name):
    import torchvision

    build = getattr(torchvision.models, name)
    return quick(build) if name in ("resnet50", "vgg11", "googlenet") else build(weights=None)


def quick(build):
    """A model without drawing its weights, which takes longer than all else here."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for t in model.state_dict().values():
            t.fill_(0.01 if t.is_floating_point() else 0)
    return model


def test_the_papers_layers():
    assert shapes(torchvision_model("resnet50")) == [
        (64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2),
    ]  # fmt: skip
    assert shapes(torchvision_model("vgg11")) == [
        (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "sides"), [(8, [8, 4, 2]), (28, [28, 14, 7, 4]), (32, [32, 16, 8, 4]), (84, [84, 42, 21, 11])]
)
def test_slim_resnet(size, sides):
    model = build_model("slim_resnet18", channels=1, size=size)
    model.head.grow(2, torch.Generator())
    assert [h for _, h, _ in shapes(model, size, 1)] == sides


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("tf_efficientnet_lite0", 64, [32, 16, 8, 4, 2]),
        ("resnet18", 64, [32, 16, 8, 4, 2]),
        ("vgg11", 64, [64, 32, 16, 8, 4]),
        ("densenet121", 64, [32, 16, 8, 4, 2]),
        ("mobilenetv3_small_100", 64, [32, 16, 8, 4, 2]),
        ("convnext_atto", 64, [16, 8, 4, 2]),
        ("regnetx_002", 64, [32, 16, 8, 4, 2]),
        ("vit_tiny_patch16_224", 224, [14]),
        ("deit_tiny_distilled_patch16_224", 224, [14]),
        ("swin_tiny_patch4_window7_224", 224, [56, 28, 14, 7]),
    ],
)
def test_timm(name, size, sides):
    import timm

    def build():
        return timm.create_model(name, pretrained=False)

    model = quick(build) if name == "vgg11" else build()
    assert [h for _, h, _ in shapes(model, size)] == sides


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("mobilenet_v2", 64, [32, 16, 8, 4, 2]),
        ("densenet121", 64, [32, 16, 8, 4, 2]),
        ("efficientnet_b0", 64, [32, 16, 8, 4, 2]),
        ("googlenet", 64, [32, 16, 8, 4, 2]),
        ("regnet_y_400mf", 64, [32, 16, 8, 4, 2]),
        ("squeezenet1_1", 64, [31, 15, 7, 3]),
        ("mobilenet_v3_small", 64, [32, 16, 8, 4, 2]),
        ("convnext_tiny", 64, [16, 8, 4, 2]),
        ("swin_t", 64, [16, 8, 4, 2]),
        ("vit_b_16", 224, [14]),
    ],
)
def test_torchvision(name, size, sides):
    assert [h for _, h, _ in shapes(torchvision_model(name), size)] == sides


class Functional(nn.Module):
    """No module shrinks the picture: all by functions, with a squeeze and a padded convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.squeeze, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6 * 16, 2)

    def forward(self, x):
        h = F.max_pool2d(self.a(x).relu(), 2)
        h = self.b(F.pad(h, (0, 1, 0, 1))).relu()
        h = h * self.squeeze(h.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(F.adaptive_avg_pool2d(h, 4).flatten(1))


def test_functional_pooling_padding_and_squeeze():
    assert shapes(Functional(), 32) == [(4, 32, 32), (6, 8, 8)]


def test_named_layers_in_the_order_asked_for():
    model = torchvision_model("resnet18")
    assert shapes(model, layers=["layer1", "layer3"]) == [(64, 16, 16), (256, 4, 4)]
    assert not model.layer1._forward_hooks


def test_unknown_name():
    with pytest.raises(SettingError, match=r"ResNet has no layer 'layer9'; its top layers are conv1, bn1, .*fc"):
        shapes(torchvision_model("resnet18"), layers=["layer9"])


def test_a_layer_that_gives_no_maps_or_does_not_run():
    model = torchvision_model("resnet18")
    with pytest.raises(SettingError, match=r"layer 'fc' gives a tensor \(1, 1000\); expected maps"):
        shapes(model, layers=["fc"])
    assert not model.fc._forward_hooks
    model.idle = nn.Conv2d(1, 1, 1)
    with pytest.raises(SettingError, match="layer 'idle' did not run"):
        shapes(model, layers=["idle"])


def test_no_maps_at_all():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(ModelError, match="no feature map larger than 1×1; name the layers"):
        forward_with_maps(model, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("size", "gives", "layout", "grid"),
    [
        ((32, 64), (2, 8, 8, 16), "first", (8, 16)),  # eight channels: not [n, h, w, C]
        ((32, 64), (2, 8, 16, 96), "last", (8, 16)),
        ((32, 32), (2, 7, 7, 96), "last", (7, 7)),
        ((32, 32), (2, 8, 8, 8), "first", (8, 8)),
        ((32, 32), (2, 17, 12), "tokens", (4, 4)),
        ((32, 64), (2, 33, 12), "tokens", (4, 8)),
    ],
)
def test_a_named_layers_layout_shows_in_the_pictures_proportions(size, gives, layout, grid):
    found = _as_map("it", torch.zeros(gives), torch.zeros(2, 3, *size))
    assert (found.layout, found.size) == (layout, grid)
