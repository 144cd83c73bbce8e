"""A model as learners use it: normalise bytes, compute features, and a head that grows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.heads import LinearHead


class Model(nn.Module):
    """A backbone that gives features, and a linear head over the classes seen so far.

    Parameters
    ----------
    backbone : nn.Module
        Maps normalised pictures ``[n, C, H, W]`` to features ``[n, d]``; or any module, if ``feature_layer`` is named.
    feature_dim : int, optional
        d. By default the backbone's ``feature_dim`` or ``num_features`` (as timm calls it).
    feature_layer : str, optional
        Name of the submodule whose output, flattened, is the features; what comes behind it is left out.
    mean, std : sequence of float
        Of each channel, on the scale 0..1: bytes x become (x/255 − mean)/std.

    Raises
    ------
    ModelError
        If d is not known or the layer does not exist.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = Model(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), feature_dim=4)
    >>> model.features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 4])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int | None = None,
        *,
        feature_layer: str | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        d = feature_dim or getattr(backbone, "feature_dim", None) or getattr(backbone, "num_features", None)
        if not isinstance(d, int) or d < 1:
            raise ModelError(f"{type(backbone).__name__} does not say its feature_dim; pass feature_dim=")
        self.backbone = _cut(backbone, feature_layer) if feature_layer else backbone
        self.head = LinearHead(d)
        self.feature_dim = d
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def normalise(self, inputs: Tensor) -> Tensor:
        """Bytes to floats around zero; floating point inputs are taken as normalised already."""
        if inputs.dtype != torch.uint8:
            return inputs
        return (inputs.to(self.mean.dtype) / 255 - self.mean) / self.std

    def prepare(self, inputs: Tensor) -> Tensor:
        """Inputs as `features` and the backbone are given them: normalised, in channels-last layout."""
        return self.normalise(inputs).contiguous(memory_format=torch.channels_last)

    def features(self, inputs: Tensor) -> Tensor:
        """Features ``[n, d]`` of pictures ``[n, C, H, W]``, bytes or normalised."""
        features = self.backbone(self.normalise(inputs))
        return features.flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[n, classes seen]``."""
        return self.head(self.features(inputs))


def _cut(module: nn.Module, layer: str) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    if layer not in get_graph_node_names(module)[1]:
        names = ", ".join(name for name, _ in module.named_children())
        raise ModelError(f"{type(module).__name__} has no layer {layer!r}; its top layers are {names}")
    return _OnlyOutput(create_feature_extractor(module, {layer: "features"}))


class _OnlyOutput(nn.Module):
    """The feature extractor's one output, out of its dict."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> Tensor:
        return self.extractor(x)["features"]
