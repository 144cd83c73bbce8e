"""Token input sampling: SISE's idea on the tokens of a vision transformer, which can leave tokens out altogether.

Englebert, Stassin, Nanfack, Mahmoudi, Siebert, Cornu, De Vleeschouwer 2023, *Explaining through Transformer Input
Sampling* (ICCV workshops 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import ModelError, SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.explainers.layers import forward_with_maps


class TokenSampling(Explainer):
    """Σ_m Ψ(tokens of m) m / Σ_m m over sets m of tokens that the transformer's own channels pick.

    Every channel of every block's output is a map over the patches. Their k-means centres, each keeping its highest
    ``kept`` share of patches, are the sets; a forward sees the class token and the kept patches only, where they are.

    Parameters
    ----------
    model : nn.Module
        A vision transformer whose blocks, children of one module, take and give ``[n, tokens, d]``, as
        timm's and torchvision's.
    layers, chunk, confidence
        As for `Explainer`; no layer is used.
    sets : int
        Masks at most, as many forwards.
    kept : float
        Share of patches in each set, between 0 and 1.
    seed : int
        Of the centres' start.

    Raises
    ------
    ModelError
        If the model has no such blocks.

    Examples
    --------
    >>> import timm, torch
    >>> settings = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    >>> model = timm.models.VisionTransformer(**settings)
    >>> TokenSampling(model, sets=8).attribute(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 1, 32, 32])
    """

    def __init__(
        self, model: nn.Module, *settings: Any, sets: int = 256, kept: float = 0.5, seed: int = 0, **more: Any
    ) -> None:
        super().__init__(model, *settings, **more)
        if sets < 1 or not 0 < kept < 1:
            raise SettingError(f"sets is {sets} and kept is {kept}; expected 1 or more, and a share between 0 and 1")
        self.sets, self.kept, self.seed = sets, kept, seed

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, a confidence for each patch."""
        with torch.no_grad():
            blocks, activations = _run_blocks(self.model, x)
            h, w = _grid(self.model, x)
        patches = h * w
        prefix = activations[0].shape[1] - patches
        maps_KT = torch.cat([a[0, prefix:].float().T for a in activations])
        centres = kmeans(maps_KT, min(self.sets, len(maps_KT)), self.seed)
        centres = centres[centres.amax(1) > centres.amin(1)]
        if len(centres) == 0:
            return torch.zeros(x.shape[2:], device=x.device)
        n = max(1, round(self.kept * patches))
        chosen = centres.topk(n, dim=1).indices
        m = torch.zeros_like(centres).scatter_(1, chosen, 1.0)
        psi = []
        for part in chosen.sort(1).values.split(self.chunk):
            with _only_tokens(blocks[0], part, prefix):
                psi.append(self.score(x.expand(len(part), *x.shape[1:]), target))
        weights = torch.cat(psi) - psi[0][0]  # a model that ignores the tokens gives zeros
        E = torch.einsum("m,mt->t", weights, m) / m.sum(0).clamp(min=1.0)
        E = torch.where(m.sum(0) > 0, E - E.min(), 0.0)  # a patch that no set chose has no score
        return F.interpolate(E.reshape(1, 1, h, w), size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0]


def kmeans(points: Tensor, k: int, seed: int, rounds: int = 10) -> Tensor:
    """Centres ``[k, d]`` of points ``[n, d]`` by Lloyd's rounds from distinct points drawn with the seed."""
    start = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:k]
    centres = points[start.to(points.device)]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=k)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def _run_blocks(model: nn.Module, x: Tensor) -> tuple[list[nn.Module], list[Tensor]]:
    """The transformer's blocks in order, and what each gives for x."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor) and args[0].ndim == out.ndim == 3:
            seen[module] = (args[0], out)

    parents = [m for m in model.modules() if isinstance(m, (nn.Sequential, nn.ModuleList)) and len(m) > 1]
    handles = [child.register_forward_hook(keep) for parent in parents for child in parent.children()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    for parent in parents:
        children = list(parent.children())
        if all(c in seen and seen[c][0].shape == seen[c][1].shape and len(seen[c][1]) == len(x) for c in children):
            return children, [seen[c][1] for c in children]
    raise ModelError(
        f"{type(model).__name__} has no row of transformer blocks over [n, tokens, d]; use another explainer"
    )


def _grid(model: nn.Module, x: Tensor) -> tuple[int, int]:
    maps = [m for m in forward_with_maps(model, x)[1] if m.layout == "tokens"]
    if not maps:
        raise ModelError(f"{type(model).__name__} shows no patches that attention reads; use another explainer")
    return maps[-1].size


@contextmanager
def _only_tokens(first: nn.Module, chosen: Tensor, prefix: int) -> Iterator[None]:
    """Let the first block, and so all behind it, see the prefix and each row's chosen patches only."""

    def keep(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens = args[0]
        index = torch.cat([torch.arange(prefix, device=chosen.device).expand(len(chosen), prefix), chosen + prefix], 1)
        return (tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2])), *args[1:])

    handle = first.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
