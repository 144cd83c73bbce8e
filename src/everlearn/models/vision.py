"""Backbones for pictures: the slim ResNet-18 of the ASER paper (arXiv 2009.00093), the full one, and timm's.

ResNet-18 (arXiv 1512.03385) for small pictures: the stem is one 3×3 convolution without pooling, as in Lopez-Paz &
Ranzato 2017 (GEM, arXiv 1706.08840). The last map is average-pooled by 4×4 as in the paper's setting (32×32 gives 160
features, 84×84 gives 640), or over everything, so that any size from 8×8 to 224×224 works.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import ModelError
from everlearn.models.model import Model


def _conv_bn(x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
    """bn(conv(x)); as one convolution, a quarter faster, where nobody wants gradients or listens to the parts."""
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    heard = any((part._forward_hooks, part._forward_pre_hooks) != ({}, {}) for part in (conv, bn))
    if bn.training or torch.is_grad_enabled() or heard:
        return bn(conv(x))
    assert bn.running_var is not None and bn.running_mean is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    weight, bias = conv.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=not torch.is_grad_enabled())


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: relu(BN(conv(relu(BN(conv(x))))) + shortcut(x))."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels_in, H, W]`` to ``[n, channels, H/stride, W/stride]``."""
        out = _relu(_conv_bn(x, self.conv1, self.bn1))
        shortcut = _conv_bn(x, self.shortcut[0], self.shortcut[1]) if len(self.shortcut) else x
        return _relu(_conv_bn(out, self.conv2, self.bn2) + shortcut)


class SlimResNet18(nn.Module):
    """ResNet-18 with ``nf``, 2nf, 4nf, 8nf channels that returns features.

    Parameters
    ----------
    channels : int
        Of the pictures, 1 or 3.
    size : int
        Height and width of the pictures, 8 to 224.
    nf : int
        Filters of the first stage: 20 for the slim network, 64 for the full one.
    pool : {"auto", "global"}
        "auto" pools by 4×4 as the paper does where the last map allows it and is at most 12 wide, else globally.

    Examples
    --------
    >>> import torch
    >>> SlimResNet18(channels=3, size=32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 160])
    >>> SlimResNet18(channels=3, size=84).feature_dim
    640
    """

    def __init__(self, channels: int = 3, size: int = 32, nf: int = 20, pool: str = "auto") -> None:
        super().__init__()
        if channels not in (1, 3) or not 8 <= size <= 224:
            raise ModelError(f"{channels} channels at {size}×{size}; expected 1 or 3 channels and 8 to 224 pixels")
        self.conv1 = nn.Conv2d(channels, nf, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(nf)
        self.layer1 = self._stage(nf, nf, 1)
        self.layer2 = self._stage(nf, 2 * nf, 2)
        self.layer3 = self._stage(2 * nf, 4 * nf, 2)
        self.layer4 = self._stage(4 * nf, 8 * nf, 2)
        last = -(-size // 8)  # three halvings, rounded up
        by_four = pool == "auto" and 4 <= last <= 12
        self.pool: nn.Module = nn.AvgPool2d(4) if by_four else nn.AdaptiveAvgPool2d(1)
        self.feature_dim = 8 * nf * ((last // 4) ** 2 if by_four else 1)

    @staticmethod
    def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(channels_in, channels, stride), BasicBlock(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[n, feature_dim]`` of pictures ``[n, channels, size, size]``."""
        out = _relu(_conv_bn(x, self.conv1, self.bn1))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.pool(out).flatten(1)


def build_model(
    name: str = "slim_resnet18",
    *,
    channels: int = 3,
    size: int = 32,
    seed: int = 0,
    weights: str | Path | None = None,
    pretrained: bool = False,
) -> Model:
    """Build a model by name with its own seed; the global random state stays as it was.

    Parameters
    ----------
    name : str
        ``slim_resnet18``, ``resnet18`` (both made for small pictures) or any name timm knows.
    channels, size : int
        Of the pictures.
    seed : int
        Of the initial weights.
    weights : path, optional
        A ``.safetensors`` file in the backbone's own keys; a classifier in it is left out.
    pretrained : bool
        Let timm fetch its weights from its hub.

    Raises
    ------
    ModelError
        If the name is unknown, the file does not fit, or the hub cannot be reached.

    Examples
    --------
    >>> build_model("slim_resnet18", channels=1, size=28).feature_dim
    160
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            model = Model(SlimResNet18(channels, size, nf=OURS[name], pool="auto"))
        else:
            model = _timm_model(name, channels, size, pretrained)
    if weights is not None:
        _load_weights(model.backbone, Path(weights))
    return model


OURS = {"slim_resnet18": 20, "resnet18": 64}


def _timm_model(name: str, channels: int, size: int, pretrained: bool) -> Model:
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        near = difflib.get_close_matches(name, [*OURS, *timm.list_models()], n=3)
        raise ModelError(
            f"no backbone is called {name!r}; nearest: {', '.join(near) or 'none'}; see timm.list_models()"
        )
    try:
        try:
            backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, img_size=size)
        except TypeError:  # a network that takes any size has no such argument
            backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels)
    except Exception as error:
        raise ModelError(f"timm cannot build {name!r}: {_first_line(error)}") from error
    cfg = backbone.pretrained_cfg
    mean, std = cfg.get("mean", (0.5,)), cfg.get("std", (0.5,))
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    try:
        with torch.no_grad():  # num_features is not always what comes out
            feature_dim = backbone.eval()(torch.zeros(1, channels, size, size)).flatten(1).shape[1]
    except Exception as error:
        found = f"{name!r} does not take pictures of {size}×{size} with {channels} channels ({_first_line(error)})"
        raise ModelError(f"{found}; set another size, or choose another backbone") from error
    backbone.train()
    return Model(backbone, feature_dim, mean=mean, std=std)


def _load_weights(backbone: nn.Module, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights from {file}: {_first_line(error)}") from error
    wanted = backbone.state_dict()
    unfit = [key for key, value in wanted.items() if key not in state or state[key].shape != value.shape]
    unfit = [key for key in unfit if not key.endswith("num_batches_tracked")]
    if unfit:
        raise ModelError(f"{file} does not fit the backbone: {len(unfit)} of {len(wanted)} tensors, first {unfit[0]!r}")
    backbone.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
