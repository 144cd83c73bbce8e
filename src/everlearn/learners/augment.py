"""Augmentation of whole batches: every picture gets its own draw, no picture is handled alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import SettingError

_GREY = torch.tensor([0.299, 0.587, 0.114])  # luma weights of ITU-R BT.601
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Augment:
    """Random operations on a batch, one after the other.

    Parameters
    ----------
    operations : tuple of str
        Of ``crop`` (a shift by up to an eighth of the side, zeros come in), ``resized_crop`` (20 to 100 % of the area,
        sides 3:4 to 4:3, scaled to the whole), ``flip`` (left-right, half of the pictures), ``colour`` (brightness,
        contrast and saturation by up to 40 %, hue by up to a tenth of its circle, 80 % of the pictures; grey pictures
        keep to the first two) and ``grey`` (20 % of the pictures).

    Raises
    ------
    SettingError
        If an operation is unknown.

    Examples
    --------
    >>> import torch
    >>> augment = Augment.of("crop,flip")
    >>> pictures = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> seen = augment(pictures, torch.Generator().manual_seed(0))
    >>> seen.shape, seen.dtype
    (torch.Size([4, 3, 32, 32]), torch.uint8)
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.operations:
            if name not in OPERATIONS:
                raise SettingError(f"augment has {name!r}; expected some of {', '.join(OPERATIONS)}, joined by commas")

    @classmethod
    def of(cls, names: str) -> Augment:
        """Operations by their names, joined by commas."""
        return cls(tuple(name.strip() for name in str(names).split(",")))

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw anew for every picture.

        Parameters
        ----------
        inputs : Tensor
            ``[n, C, H, W]`` uint8, or floating point in 0..1.
        generator : torch.Generator
            On the CPU, so that all devices see the same pictures.

        Returns
        -------
        Tensor
            Of the same shape and type.
        """
        return self.together(inputs, None, generator)[0]

    def together(
        self, inputs: Tensor, marks: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """As a call; marks ``[n, k, H, W]`` of the pictures are moved as these are, but keep their values."""
        if not len(inputs):
            return inputs, marks
        x = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        for name in self.operations:
            if marks is None or name not in _MOVES:
                x = OPERATIONS[name](x, generator)
            else:
                x, marks = OPERATIONS[name](torch.cat([x, marks], 1), generator).split([x.shape[1], marks.shape[1]], 1)
        return (x * 255).round().clamp(0, 255).to(torch.uint8) if inputs.dtype == torch.uint8 else x, marks


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to an eighth of the side; what comes in from outside is zero."""
    n, c, h, w = x.shape
    p, q = h // 8, w // 8
    dy = torch.randint(2 * p + 1, (n, 1), generator=generator).to(x.device)
    dx = torch.randint(2 * q + 1, (n, 1), generator=generator).to(x.device)
    rows = (torch.arange(h, device=x.device) + dy)[:, None, :, None]
    columns = (torch.arange(w, device=x.device) + dx)[:, None, None, :]
    i = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[None, :, None, None]
    return F.pad(x, (q, q, p, p))[i, channel, rows, columns]


def resized_crop(x: Tensor, generator: torch.Generator, least: float = 0.2) -> Tensor:
    """A rectangle of the picture, scaled to the whole (Szegedy et al. 2015, arXiv 1409.4842), in one sampling."""
    n = len(x)
    area = _uniform(n, least, 1.0, generator)
    ratio = _uniform(n, math.log(3 / 4), math.log(4 / 3), generator).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1.0)  # share of width, of height
    centre = (1 - sides) * (torch.rand(n, 2, generator=generator) * 2 - 1)
    theta = torch.cat([torch.diag_embed(sides), centre[:, :, None]], 2).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Left-right, every second picture on average."""
    return torch.where(_chosen(x, 0.5, generator), x.flip(3), x)


def colour(
    x: Tensor, generator: torch.Generator, strength: float = 0.4, hue: float = 0.1, share: float = 0.8
) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order; hue turns the colour plane of YIQ."""
    n, c = x.shape[:2]
    brightness, contrast, saturation = (
        _uniform(n, 1 - strength, 1 + strength, generator).to(x)[:, None, None, None] for _ in range(3)
    )
    angle = _uniform(n, -hue, hue, generator) * 2 * math.pi
    chosen = _chosen(x, share, generator)
    out = (x * brightness).clamp(0, 1)
    mean = _luma(out).mean((2, 3), keepdim=True)
    out = (mean + contrast * (out - mean)).clamp(0, 1)
    if c == 3:
        luma = _luma(out)
        out = luma + saturation * (out - luma)
        out = torch.einsum("nij,njhw->nihw", _hue_turns(angle).to(x), out).clamp(0, 1)
    return torch.where(chosen, out, x)


def grey(x: Tensor, generator: torch.Generator, share: float = 0.2) -> Tensor:
    """Every fifth picture on average without its colours."""
    chosen = _chosen(x, share, generator)
    return torch.where(chosen, _luma(x).expand_as(x), x)


OPERATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "crop": crop,
    "resized_crop": resized_crop,
    "flip": flip,
    "colour": colour,
    "grey": grey,
}


_MOVES = ("crop", "resized_crop", "flip")


def _luma(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * _GREY.to(x)[:, None, None]).sum(1, keepdim=True)


def _hue_turns(angle: Tensor) -> Tensor:
    """``[n, 3, 3]``: to YIQ, turn I and Q by the angle, and back."""
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).reshape(-1, 3, 3)
    return torch.linalg.inv(_YIQ) @ turn @ _YIQ


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _chosen(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(len(x), generator=generator) < share).to(x.device)[:, None, None, None]
