"""Pictures for pages: samples, heat maps laid over them, small charts; all as text that an HTML page holds."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_SHOWN = 224  # pixels a picture has on a page, at least


def to_rgb(picture: Tensor) -> NDArray[np.uint8]:
    """``[C, H, W]`` uint8 with 1 or 3 channels to ``[H, W, 3]``."""
    return picture.cpu().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def overlay(picture: Tensor, heat: Tensor, opacity: float = 0.5, strength: float = 1.0) -> NDArray[np.uint8]:
    """Lay a heat map ``[1, H, W]`` over a picture ``[C, H, W]``: ``[H', W', 3]``, enlarged to be seen.

    The colour scale is the map's own, from its least to its greatest value; the opacity rises with the map, so that the
    picture stays visible where the map is cold. With a ``strength`` below 1 the greatest value gets only that share of
    the scale: with the probability as strength, colours can be compared between pictures.

    Examples
    --------
    >>> overlay(torch.zeros(1, 8, 8, dtype=torch.uint8), torch.rand(1, 8, 8)).shape
    (224, 224, 3)
    """
    heat = heat.detach().float().cpu()
    scale = strength * (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
    picture_big = enlarge(to_rgb(picture)).astype(np.float32)
    height, width = picture_big.shape[:2]
    smooth = torch.nn.functional.interpolate(scale[None], (height, width), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    colours = matplotlib.colormaps["inferno"](smooth)[..., :3].astype(np.float32) * 255
    alpha = (
        opacity * (0.35 + 0.65 * smooth[..., None]) * bool(heat.max() > heat.min())
    )  # an empty map leaves all as it is
    return (picture_big * (1 - alpha) + colours * alpha).round().astype(np.uint8)


def enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge a small picture by a whole factor, pixels kept square."""
    factor = max(1, _SHOWN // min(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def data_url(picture: NDArray[np.uint8]) -> str:
    """A PNG as ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def accuracy_chart(curves: dict[str, Sequence[float]]) -> str:
    """Average accuracy on the tasks so far, after each task, as SVG."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), [100 * value for value in values], marker="o", label=name)
    axes.set(xlabel="after task", ylabel="average accuracy on tasks so far, %", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return svg(figure)


def memory_chart(names: Sequence[str], counts: Sequence[int]) -> str:
    """Remembered samples by class, as SVG."""
    figure = Figure(figsize=(6.4, max(1.6, 0.26 * len(names) + 0.8)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), counts, color="#4c72b0")
    axes.set_yticks(range(len(names)), [as_written(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("remembered samples")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def as_written(text: str) -> str:
    r"""Text from elsewhere, so that a chart shows it letter by letter: matplotlib reads what is between $ as a formula.

    Examples
    --------
    >>> print(as_written("cost_$ in US_$"))
    cost_\$ in US_\$
    """
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """A figure as an SVG element; its texts stay texts, which the browser shows in a font that has their letters.

    Examples
    --------
    >>> figure = Figure()
    >>> _ = figure.text(0.5, 0.5, "전도도")
    >>> "전도도" in svg(figure)
    True
    """
    file = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "everlearn", "svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of the font that only measures
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
