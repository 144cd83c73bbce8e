"""The lines of the table of explainers: ours, and those of pytorch-grad-cam and TorchCAM where they are installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers import EXPLAINERS, GradCAM
from everlearn.metrics.faithfulness import random_maps

# The layers that ours finds in EfficientNet-Lite0, with BatchNorm folded; a peer is given the same
_STAGES = ("blocks.1.0.bn1", "blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1", "bn2")
Call = Callable[[Tensor, Tensor], Tensor]  # inputs [1, C, H, W], target [1] → map [1, 1, H, W]


@dataclass(frozen=True)
class Line:
    """One explainer of the table.

    Parameters
    ----------
    name : str
        As the table calls it.
    build : callable
        From the model and a seed to a call.
    slow : bool
        More than a thousand forwards a picture: run on fewer pictures.
    package : str, optional
        What must be installed.
    """

    name: str
    build: Callable[[nn.Module, int], Call]
    slow: bool = False
    package: str | None = None


def lines() -> dict[str, Line]:
    """All lines by their keys."""
    found = {
        "random": Line("random map, spectrum of Grad-CAM", _random),
        "sise": Line("SISE μ = 0", partial(_ours, "sise")),
        "sise_0.3": Line("SISE μ = 0.3", partial(_ours, "sise", mu=0.3)),
        "ada_sise": Line("Ada-SISE", partial(_ours, "ada_sise")),
        "frugal_sise": Line("FrugalSISE", partial(_ours, "frugal_sise")),
        "grad_cam": Line("Grad-CAM", partial(_ours, "grad_cam")),
        "grad_cam_plus_plus": Line("Grad-CAM++", partial(_ours, "grad_cam_plus_plus")),
        "layer_cam": Line("LayerCAM", partial(_ours, "layer_cam")),
        "refine_cam": Line("RefineCAM", partial(_ours, "refine_cam")),
        "integrated_grad_cam": Line("Integrated Grad-CAM", partial(_ours, "integrated_grad_cam")),
        "score_cam": Line("Score-CAM", partial(_ours, "score_cam"), slow=True),
        "rise": Line("RISE", partial(_ours, "rise"), slow=True),
    }
    for name in ("integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion"):
        title = name.replace("_", " ").capitalize()
        found[name] = Line(title, partial(_ours, name), package="captum")
    for kind in ("GradCAM", "GradCAMPlusPlus", "LayerCAM", "RefineCAM", "ScoreCAM"):
        build = partial(_pytorch_grad_cam, kind)
        found[f"pytorch-grad-cam:{kind}"] = Line(kind, build, kind == "ScoreCAM", package="grad-cam")
    for kind in ("GradCAM", "GradCAMpp", "LayerCAM", "RefineCAM", "ScoreCAM"):
        found[f"torchcam:{kind}"] = Line(kind, partial(_torchcam, kind), kind == "ScoreCAM", package="torchcam")
    return found


def version_of(line: Line) -> str | None:
    """``"package version"``, None for our own.

    Raises
    ------
    SettingError
        If the package is missing.
    """
    if line.package is None:
        return None
    try:
        return f"{line.package} {importlib.metadata.version(line.package)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingError(f"{line.name} needs {line.package}, which is not installed") from error


def _ours(name: str, model: nn.Module, seed: int, **settings: Any) -> Call:
    return EXPLAINERS[name](model, **settings).attribute


def _random(model: nn.Module, seed: int) -> Call:
    generator = torch.Generator().manual_seed(seed)
    smooth = GradCAM(model)
    return lambda x, target: random_maps(smooth.attribute(x, target), generator)


def _pytorch_grad_cam(kind: str, model: nn.Module, seed: int) -> Call:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = getattr(pytorch_grad_cam, kind)(model, [model.get_submodule(name) for name in peer_layers(model, kind)])

    def call(x: Tensor, target: Tensor) -> Tensor:
        return torch.from_numpy(cam(x, [ClassifierOutputTarget(int(target))]))[:, None]

    return call


def _torchcam(kind: str, model: nn.Module, seed: int) -> Call:
    from torchcam import methods

    def call(x: Tensor, target: Tensor) -> Tensor:
        layer = peer_layers(model, kind)
        with torch.set_grad_enabled(kind != "ScoreCAM"), getattr(methods, kind)(model, target_layer=layer) as cam:
            scores = model(x if kind == "ScoreCAM" else x.clone().requires_grad_())
            found = cam(int(target), scores)[0]
        return F.interpolate(found[None].detach(), x.shape[2:], mode="bilinear", align_corners=False)

    return call


def peer_layers(model: nn.Module, kind: str) -> list[str]:
    """Names of the layers that a peer is given: for RefineCAM all, else the last; the last convolution if unknown."""
    known = dict(model.named_modules())
    names = [name for name in _STAGES if name in known] or [last_convolution(model)]
    return names if kind == "RefineCAM" else names[-1:]


def last_convolution(model: nn.Module) -> str:
    """Name of the last convolution.

    Examples
    --------
    >>> from torch import nn
    >>> last_convolution(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.ReLU()))
    '1'
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise SettingError(f"{type(model).__name__} has no convolution that a peer could explain by")
    return names[-1]
