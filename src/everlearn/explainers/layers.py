"""Which feature maps to explain by, found in one forward pass from shapes alone.

The rule of SISE (arXiv 2010.00672): the input of each layer that makes the map smaller, and the last map. Nothing is
read from the names of modules: a function mode sees every call to PyTorch inside the forward pass, so functional
pooling, shortcuts and blocks of any nesting are treated alike, and nothing is left attached to the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from everlearn.errors import ModelError, SettingError
from everlearn.metrics.confidence import outputs

# The operator tells where the channels are: these read [n, C, H, W], those [n, H, W, C] or [n, tokens, C].
_POOLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d"}
_CHANNELS_FIRST = {"conv2d", "batch_norm", "group_norm", "instance_norm", "interpolate"} | _POOLS
_CHANNELS_LAST = {"linear", "layer_norm", "rms_norm"}
_KEEPS = {"dropout", "relu", "contiguous"}
_ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward", "softmax"}
_SMALLER = 0.75  # a map at most this share as wide as another belongs to a later stage
_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens before the patches


@dataclass(frozen=True)
class FeatureMap:
    """One layer's maps of a batch, in the model's own layout, as part of the autograd graph."""

    tensor: Tensor
    layout: str  # "first" [n, C, h, w], "last" [n, h, w, C], "tokens" [n, prefix + h w, C]
    size: tuple[int, int]

    def channels_first(self, like: Tensor | None = None) -> Tensor:
        """``[n, C, h, w]`` float32 of the maps, or of a tensor of the same shape, such as their gradient."""
        return self.arranged((self.tensor if like is None else like).detach())

    def arranged(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` float32 of a tensor in this layout, as part of its graph."""
        x = x.float()
        if self.layout == "last":
            return x.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            h, w = self.size
            return x[:, x.shape[1] - h * w :].transpose(1, 2).unflatten(2, (h, w))
        return x


def forward_with_maps(
    model: nn.Module, inputs: Tensor, layers: Sequence[str] | None = None
) -> tuple[Tensor, list[FeatureMap]]:
    """Outputs ``[n, C]`` and the maps to explain by, from large to small, with their graph.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    inputs : Tensor
        ``[n, C, H, W]`` floating point, n ≥ 1; in the graph themselves if they require a gradient.
    layers : sequence of str, optional
        Names of submodules whose outputs to take instead, in that order.

    Raises
    ------
    SettingError
        If a name is not a submodule's, was not run, or gives no maps.
    ModelError
        If the model has no map larger than 1×1.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ... )
    >>> logits, maps = forward_with_maps(model, torch.zeros(1, 1, 16, 16))
    >>> [tuple(m.tensor.shape) for m in maps]
    [(1, 4, 16, 16), (1, 8, 8, 8)]
    """
    with torch.enable_grad():
        x = inputs if inputs.requires_grad else inputs.detach().clone().requires_grad_()
        if layers:
            with _named(model, layers, x) as maps:
                logits = outputs(model, x)
            missing = [name for name, found in maps.items() if found is None]
            if missing:
                raise SettingError(f"layer {missing[0]!r} did not run; name one that the forward pass uses")
            return logits, [found for found in maps.values() if found is not None]
        with _Trace(len(x)) as trace:
            logits = outputs(model, x)
    trace.last()  # there is one
    return logits, [m for m in trace.stages if m.tensor.requires_grad]


@contextmanager
def watching(n: int) -> Iterator[Callable[[], FeatureMap]]:
    """Give the last map of a forward pass of ``n`` pictures that is made inside, in whatever mode the model is.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> with watching(2) as last:
    ...     features = model(torch.zeros(2, 1, 8, 8))
    >>> last().tensor.shape
    torch.Size([2, 4, 6, 6])
    """
    with _Trace(n) as trace:
        yield trace.last


class _Trace(TorchFunctionMode):
    """Keeps the last tensor that an operator read at each size; what a branch shrank meanwhile is forgotten."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.stages: list[FeatureMap] = []
        self.picture: Tensor | None = None  # what the first layer reads
        self.grid: tuple[int, int] | None = None
        self.tokens: Tensor | None = None
        self.derived: Tensor | None = None  # pooled or padded: shows nothing that its input does not show better

    def last(self) -> FeatureMap:
        """The last map that gradients reach."""
        found = [m for m in self.stages if m.tensor.requires_grad]
        if not found:
            raise ModelError("the model has no feature map larger than 1×1; name the layers to explain by with layers=")
        return found[-1]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor) and x.ndim in (3, 4) and (len(x) == self.n or name in _ATTENTION):
            self._see(name, x, args, kwargs)
        out = func(*args, **kwargs)
        if name in _POOLS or name == "pad" or (name in _KEEPS and x is self.derived):
            self.derived = out
        if name in ("flatten", "reshape", "view") and isinstance(x, Tensor) and isinstance(out, Tensor):
            self._see_flattened(x, out)
        return out

    def _see(self, name: str, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.picture is None:
            if name in ("conv2d", "linear"):
                self.picture = x
            return
        if x.ndim == 4:
            layout = _layout(name, args, kwargs)
            if layout and x is not self.picture:
                self._use(x, layout)
        elif name in ("layer_norm", "rms_norm"):
            self.tokens = x
        if name in _ATTENTION and self.tokens is not None and self.grid is not None:
            prefix = self.tokens.shape[1] - self.grid[0] * self.grid[1]
            if 0 <= prefix <= _MOST_PREFIX_TOKENS:
                self._add(FeatureMap(self.tokens, "tokens", self.grid))

    def _see_flattened(self, x: Tensor, out: Tensor) -> None:
        if self.picture is None or x.ndim != 4 or len(x) != self.n:
            return
        if out.ndim == 2:
            self._use(x, "first")
        elif out.ndim == 3:  # into tokens
            self.grid = (x.shape[2], x.shape[3])

    def _use(self, x: Tensor, layout: str) -> None:
        h, w = (x.shape[2], x.shape[3]) if layout == "first" else (x.shape[1], x.shape[2])
        if h * w > 1 and x is not self.derived:
            self._add(FeatureMap(x, layout, (h, w)))

    def _add(self, found: FeatureMap) -> None:
        while self.stages and _is_later_stage(self.stages[-1], found):
            self.stages.pop()
        if not self.stages or _is_later_stage(found, self.stages[-1]):
            self.stages.append(found)
        elif found.size[0] <= self.stages[-1].size[0] and found.size[1] <= self.stages[-1].size[1]:
            self.stages[-1] = found


def _is_later_stage(a: FeatureMap, b: FeatureMap) -> bool:
    return max(a.size[0] / b.size[0], a.size[1] / b.size[1]) <= _SMALLER


def _layout(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    if name in _CHANNELS_FIRST:
        return "first"
    if name in _CHANNELS_LAST:
        return "last"
    if name in ("mean", "amax"):
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        over = {d % 4 for d in dims} if isinstance(dims, (tuple, list)) else set()
        return "first" if over == {2, 3} else "last" if over == {1, 2} else None
    if name == "pad":
        amounts = args[1] if len(args) > 1 else kwargs["pad"]
        return "first" if len(amounts) == 4 else "last" if len(amounts) == 6 else None
    return None


@contextmanager
def _named(model: nn.Module, layers: Sequence[str], x: Tensor) -> Iterator[dict[str, FeatureMap | None]]:
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        names = ", ".join(name for name, _ in model.named_children())
        raise SettingError(f"{type(model).__name__} has no layer {unknown[0]!r}; its top layers are {names}")
    maps: dict[str, FeatureMap | None] = dict.fromkeys(layers)

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            maps[name] = _as_map(name, out, x)

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _as_map(name: str, out: Any, x: Tensor) -> FeatureMap:
    """The maps of a named layer; where they stand shows in the picture's own proportions."""
    n, across = len(x), x.shape[3] / x.shape[2]
    if isinstance(out, Tensor) and out.ndim == 4 and len(out) == n:
        first, last = (out.shape[2], out.shape[3]), (out.shape[1], out.shape[2])
        off = [abs(math.log(w / h / across)) for h, w in (first, last)]
        return FeatureMap(out, "first", first) if off[0] <= off[1] else FeatureMap(out, "last", last)
    if isinstance(out, Tensor) and out.ndim == 3 and len(out) == n:
        for tokens in range(out.shape[1], max(out.shape[1] - _MOST_PREFIX_TOKENS, 2) - 1, -1):
            h, w = round((tokens / across) ** 0.5), round((tokens * across) ** 0.5)
            if h * w == tokens:
                return FeatureMap(out, "tokens", (h, w))
    found = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise SettingError(f"layer {name!r} gives {found}; expected maps [n, C, h, w], [n, h, w, C] or [n, tokens, C]")
