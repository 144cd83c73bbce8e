import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from everlearn.errors import ModelError, SettingError
from everlearn.explainers import EXPLAINERS, SISE, Explainer, GradCAM
from everlearn.explainers.explainer import undisturbed

_spec = importlib.util.spec_from_file_location("check_explainer", Path(__file__).with_name("check_explainer.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
check_explainer = _module.check_explainer


CAPTUM = {"integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion"}
if importlib.util.find_spec("captum") is None:
    EXPLAINERS = {name: method for name, method in EXPLAINERS.items() if name not in CAPTUM}
EXPLAINERS = {name: method for name, method in EXPLAINERS.items() if name != "token_sampling"}  # for transformers
EXPLAINERS["frugal_sise"] = partial(EXPLAINERS["frugal_sise"], precision="float32")
EXPLAINERS["rise"] = partial(EXPLAINERS["rise"], samples=64)
EXPLAINERS["integrated_grad_cam"] = partial(EXPLAINERS["integrated_grad_cam"], steps=5)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_explainer(name, cnn):
    check_explainer(EXPLAINERS[name], cnn())


@pytest.mark.parametrize("name", EXPLAINERS)
def test_chunks_do_not_matter(name, cnn):
    model, x = cnn(), torch.randn(1, 1, 16, 16)
    whole, pieces = (EXPLAINERS[name](model, chunk=c).attribute(x, 1) for c in (1000, 2))
    torch.testing.assert_close(whole, pieces, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_other_outputs(name, cnn):
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    one_logit = EXPLAINERS[name](cnn(outputs=1))
    assert torch.isfinite(one_logit.attribute(x)).all()
    assert torch.isfinite(one_logit.attribute(x, torch.tensor([0, 1]))).all()
    regression = EXPLAINERS[name](cnn(outputs=1), confidence="none")
    assert torch.isfinite(regression.attribute(x)).all()
    several = EXPLAINERS[name](cnn(outputs=4), confidence="sigmoid")
    assert torch.isfinite(several.attribute(x, 3)).all()


@pytest.mark.parametrize("name", EXPLAINERS)
def test_bfloat16(name, cnn):
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = EXPLAINERS[name](cnn().to(torch.bfloat16)).attribute(x.to(torch.bfloat16))
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()


def test_flat_output_and_logits_attribute():
    class Flat(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.conv, self.wrap = nn.Conv2d(1, 2, 3), wrap

        def forward(self, x):
            out = self.conv(x).relu().mean((2, 3))[:, 0]
            return self.wrap(out)

    class Output:
        def __init__(self, out):
            self.logits = torch.stack([out, -out], 1)

    x = torch.randn(2, 1, 8, 8)
    for wrap in (lambda out: out, Output):
        assert GradCAM(Flat(wrap)).attribute(x).shape == (2, 1, 8, 8)


def test_impossible_outputs():
    class Odd(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ModelError, match=r"gives a tensor \(1, 1, 8, 8\) for 1 inputs; expected one row"):
        SISE(Odd()).attribute(torch.zeros(1, 1, 8, 8))


def test_modes_come_back_one_by_one(cnn):
    model = cnn()
    model.train()
    model[1].eval()
    with pytest.raises(ValueError, match="in the middle"), undisturbed(model):
        assert not any(m.training for m in model.modules())
        raise ValueError("in the middle")
    assert model.training and not model[1].training and model[6].training


def test_settings_out_of_range(cnn):
    with pytest.raises(SettingError, match="chunk is 0; expected 1 or more"):
        SISE(cnn(), chunk=0)
    with pytest.raises(SettingError, match="confidence is 'odds'; expected one of auto, softmax, sigmoid, none"):
        Explainer(cnn(), confidence="odds")


def test_graph_is_not_kept(cnn):
    """No tensor of the forward pass lives on: what a call allocates is freed with its result."""
    import gc
    import weakref

    model, seen = cnn(), []

    class Spy(nn.Module):
        def forward(self, h):
            seen.append(weakref.ref(h))
            return h

    SISE(nn.Sequential(model[0], Spy(), *model[1:])).attribute(torch.randn(1, 1, 16, 16))
    gc.collect()
    assert seen and all(ref() is None for ref in seen)
