"""What holds for every explainer; each method's test calls `check_explainer` with a way to build it."""

import pytest
import torch
from torch import nn

from everlearn.errors import SettingError


def check_explainer(build, model):
    """``build(model)`` gives an explainer over ``model``, which maps ``[n, 1, 16, 16]`` to 3 logits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 16, 16, generator=generator)
    maps = build(model).attribute(x)
    assert maps.shape == (3, 1, 16, 16) and maps.dtype == torch.float32 and not maps.requires_grad
    assert torch.isfinite(maps).all()
    predicted = model.eval()(x).argmax(1)
    model.train()
    torch.testing.assert_close(build(model).attribute(x, predicted), maps)  # target None is the prediction
    one = build(model).attribute(x[1:2], int(predicted[1]))
    torch.testing.assert_close(one, maps[1:2], rtol=1e-3, atol=1e-4)  # a picture does not depend on its company
    assert build(model).attribute(x[:0]).shape == (0, 1, 16, 16)
    leaves_the_model_as_it_was(build, model, x)
    constant_model_gives_zeros(build, x)
    refuses_what_does_not_fit(build, model, x)


def leaves_the_model_as_it_was(build, model, x):
    model.train()
    model[1].eval()  # a frozen norm inside a training model
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 2 == 0)
        p.grad = torch.full_like(p, 0.5) if i % 3 == 0 else None
    before = snapshot(model)
    random = torch.random.get_rng_state()
    with torch.no_grad():  # as a caller may
        build(model).attribute(x[:1])
    with torch.inference_mode():
        build(model).attribute(x[:1].clone())
    same(before, snapshot(model))
    assert torch.equal(random, torch.random.get_rng_state())

    class Broken(nn.Module):
        calls = 0

        def forward(self, h):
            Broken.calls += 1
            if Broken.calls >= 3:
                raise RuntimeError("broke")
            return h

    broken = nn.Sequential(*model, Broken())
    before = snapshot(broken)
    with pytest.raises(RuntimeError, match="broke"):
        explainer = build(broken)
        for _ in range(4):
            explainer.attribute(x[:1])
    same(before, snapshot(broken))
    for p in model.parameters():
        p.requires_grad_(True)


def snapshot(model):
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: t.clone() for name, t in model.state_dict().items()},
    }


def same(a, b):
    assert (a["modes"], a["hooks"], a["requires"]) == (b["modes"], b["hooks"], b["requires"])
    for g, h in zip(a["grads"], b["grads"]):
        assert (g is None) == (h is None) and (g is None or torch.equal(g, h))
    assert all(torch.equal(a["state"][name], b["state"][name]) for name in a["state"])


class Deaf(nn.Module):
    """Gives the same logits for every picture."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.adaptive_avg_pool2d(self.conv(x).relu(), 1).flatten(1)
        return self.head(h * 0)


def constant_model_gives_zeros(build, x):
    maps = build(Deaf()).attribute(x[:1])
    assert torch.isfinite(maps).all() and (maps == maps.flatten()[0]).all()
    flat = build(Deaf()).attribute(torch.zeros(1, 1, 16, 16))
    assert torch.isfinite(flat).all()


def refuses_what_does_not_fit(build, model, x):
    with pytest.raises(SettingError, match=r"inputs are torch.uint8 .* expected normalised floats"):
        build(model).attribute(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(SettingError, match=r"inputs are torch.float32 \(1, 16, 16\)"):
        build(model).attribute(x[0])
    with pytest.raises(SettingError, match="target is 3; the model has classes 0 … 2"):
        build(model).attribute(x, 3)
    with pytest.raises(SettingError, match="target is -1; the model has classes 0 … 2"):
        build(model).attribute(x, torch.tensor([0, 1, -1]))
    with pytest.raises(SettingError, match="expected a class index or one for each of 3 inputs"):
        build(model).attribute(x, torch.tensor([0, 1]))
