"""Backbones, heads that grow, and the two joined."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from everlearn.errors import ModelError
from everlearn.models import LinearHead, Model, NearestClassMean, SlimResNet18, build_model


@pytest.mark.parametrize(("size", "d"), [(8, 160), (16, 160), (28, 160), (32, 160), (64, 640), (84, 640), (224, 160)])
@pytest.mark.parametrize("channels", [1, 3])
def test_slim_resnet_takes_all_sizes(size, d, channels):
    model = SlimResNet18(channels, size)
    assert model.feature_dim == d
    assert model(torch.zeros(2, channels, size, size)).shape == (2, d)


def test_folding_batch_norm_changes_nothing(rng):
    network, x = SlimResNet18(3, 32, nf=4), torch.randn(8, 3, 32, 32, generator=rng)
    for _ in range(3):
        network(x)  # running statistics that are not those of the beginning
    network.eval()
    plain = network(x).detach()
    with torch.no_grad():
        folded = network(x)
        heard = []
        network.layer2[0].bn1.register_forward_hook(lambda module, args, out: heard.append(out))
        assert torch.allclose(network(x), plain, atol=1e-5)
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-5)
    assert len(heard) == 1  # who listens to a part hears it


def test_slim_resnet_has_the_papers_size():
    model = build_model("slim_resnet18")
    model.head.grow(10, torch.Generator())
    # stem 580, stages 14 560 + 51 600 + 205 600 + 820 800, head 160 × 10 + 10
    assert sum(p.numel() for p in model.parameters()) == 1_094_750
    assert build_model("resnet18").feature_dim == 512


def test_initial_weights_follow_the_seed_and_disturb_nobody():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (build_model("slim_resnet18", size=8, seed=seed).backbone.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_indices_never_change_when_a_head_grows():
    head, rng = LinearHead(4), torch.Generator().manual_seed(0)
    head.grow(2, rng)
    weight, before = head.weight, head.weight.detach().clone()
    head.grow(5, rng)
    head.grow(3, rng)  # never shrinks
    assert head.weight is weight
    assert head.n_classes == 5
    assert torch.equal(head.weight[:2], before)
    assert head.weight.abs().max() <= 0.5  # 1/√4


def test_nearest_class_mean_against_a_loop(rng):
    features, targets = torch.randn(30, 6, generator=rng), torch.randint(3, (30,), generator=rng)
    head = NearestClassMean(6)
    head.fit(features, targets, n_classes=4)
    queries = torch.randn(5, 6, generator=rng)
    logits = head(queries)
    assert torch.isinf(logits[:, 3]).all()  # a class without samples is never predicted
    for i, q in enumerate(queries):
        for c in range(3):
            mean = torch.stack([f / f.norm() for f, t in zip(features, targets) if t == c]).mean(0)
            expected = -((q / q.norm() - mean / mean.norm()) ** 2).sum()
            torch.testing.assert_close(logits[i, c], expected)


def test_bytes_are_normalised_and_floats_are_not():
    model = Model(nn.Flatten(), feature_dim=4, mean=(0.5,), std=(0.25,))
    picture = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    torch.testing.assert_close(model.features(picture), torch.tensor([[-2.0, 2.0, -1.2, -0.4]]))
    torch.testing.assert_close(model.features(torch.ones(1, 1, 2, 2)), torch.ones(1, 4))


def test_a_named_layer_gives_the_features():
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    model = Model(network, 512, feature_layer="avgpool")
    x = torch.rand(2, 3, 64, 64)
    expected = network.eval()
    network.fc = nn.Identity()
    torch.testing.assert_close(model.eval().features(x), expected(x))


def test_timm_by_name_with_weights_from_a_file(tmp_path):
    model = build_model("resnet18d", channels=3, size=64, seed=3)
    save_file(model.backbone.state_dict(), tmp_path / "w.safetensors")
    again = build_model("resnet18d", channels=3, size=64, seed=4, weights=tmp_path / "w.safetensors")
    x = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(model.eval().features(x), again.eval().features(x))
    assert model.feature_dim == 512


def test_errors_are_one_line_each(tmp_path):
    with pytest.raises(ModelError, match="pass feature_dim="):
        Model(nn.Flatten())
    with pytest.raises(ModelError, match="no layer 'nowhere'; its top layers are"):
        Model(nn.Sequential(nn.Flatten()), 4, feature_layer="nowhere")
    with pytest.raises(ModelError, match=r"no backbone is called 'resnet18x'; nearest: .*resnet18"):
        build_model("resnet18x")
    with pytest.raises(ModelError, match="expected 1 or 3 channels and 8 to 224 pixels"):
        SlimResNet18(3, 4)
    with pytest.raises(ModelError, match=r"'test_convnext3' does not take pictures of 8×8 with 3 channels \(.+\); set"):
        build_model("test_convnext3", size=8)
    with pytest.raises(ModelError, match="cannot read weights"):
        build_model("slim_resnet18", weights=tmp_path / "none.safetensors")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="does not fit the backbone"):
        build_model("slim_resnet18", weights=tmp_path / "bad.safetensors")
