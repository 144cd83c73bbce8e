import pytest
import timm
import torch
import torchvision

from everlearn.errors import ModelError, SettingError
from everlearn.explainers import TokenSampling
from everlearn.explainers.token_sampling import kmeans


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, reg_tokens=2
    )


def torchvision_vit():
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)


@pytest.mark.parametrize("build", [None, torchvision_vit])
def test_transformers_of_both_libraries(vit, build):
    model = (build() if build else vit).train()
    x = torch.randn(2, 3, 32, 32)
    maps = TokenSampling(model, sets=8, chunk=3).attribute(x, 1)
    assert maps.shape == (2, 1, 32, 32) and torch.isfinite(maps).all()
    assert model.training and all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(TokenSampling(model, sets=8).attribute(x[1:], 1), maps[1:], rtol=1e-3, atol=1e-5)


def test_equals_leaving_the_tokens_out_by_hand(vit):
    vit.eval()
    x = torch.randn(1, 3, 32, 32)
    tokens = vit._pos_embed(vit.patch_embed(x))
    outs, h = [], tokens
    for block in vit.blocks:
        h = block(h)
        outs.append(h[0, 3:].T)
    centres = kmeans(torch.cat(outs).detach(), 6, seed=0)
    weighted, counts = torch.zeros(16), torch.zeros(16)
    psi = []
    for c in centres:
        chosen = c.topk(8).indices.sort().values
        h = torch.cat([tokens[:, :3], tokens[:, 3:][:, chosen]], 1)
        for block in vit.blocks:
            h = block(h)
        psi.append((vit.forward_head(vit.norm(h)).softmax(1)[0, 2].detach(), chosen))
    for p, chosen in psi:
        weighted[chosen] += p - psi[0][0]
        counts[chosen] += 1
    E = weighted / counts.clamp(min=1)
    E = torch.where(counts > 0, E - E.min(), 0.0).reshape(1, 1, 4, 4)
    wanted = torch.nn.functional.interpolate(E, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(TokenSampling(vit, sets=6).attribute(x, 2), wanted, rtol=1e-3, atol=1e-5)


def test_a_convolutional_model_is_refused(cnn):
    with pytest.raises(ModelError, match="Sequential has no row of transformer blocks"):
        TokenSampling(cnn()).attribute(torch.randn(1, 1, 16, 16))


def test_settings_out_of_range(vit):
    with pytest.raises(SettingError, match=r"sets is 0 and kept is 0\.5"):
        TokenSampling(vit, sets=0)


def test_kmeans_finds_clear_groups():
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([c + 0.01 * torch.randn(20, 2, generator=generator) for c in torch.tensor([[0.0, 0], [5, 5]])])
    centres = kmeans(points, 2, seed=1)
    assert sorted(round(float(c.sum())) for c in centres) in ([0, 10], [0, 0], [10, 10]) and len(centres) == 2
