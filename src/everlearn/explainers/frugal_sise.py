"""Frugal SISE: the most faithfulness for each forward. Everlearn's own, after SISE (whose patent `sise` names).

SISE's figures say that most of its masks add nothing: at μ = 0.3 it is four times faster and better. Many of a layer's
feature maps are the same shape, so their masks ask the model the same question. Here maps of one shape are merged,
each merged mask asks two questions (what is left when it alone is shown, what is lost when it is hidden) and counts as
far as it both suffices and matters, the masks with most at stake come first, and asking ends when the map has settled
or the budget is spent. Unlike SISE's, the fusion has no threshold: it would make most pixels equal, and their order is
what faithfulness measures. No single fusion is best for all pictures, so the model is asked once more, about the top
pixels of a few: the one it confirms is the map.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.explainers.fusions import fusions, gradient_maps, product
from everlearn.explainers.sise import masks
from everlearn.explainers.token_sampling import kmeans
from everlearn.learners.device import fast_bfloat16
from everlearn.metrics.localisation import top_pixels

_SIDE = 14  # shapes are compared at this resolution
_ROUND = 16  # masks asked about between two looks at the map
_TOPS = (0.08, 0.15, 0.25)  # shares of the pixels that a fusion is confirmed by
_FUSIONS = 6


class FrugalSISE(Explainer):
    r"""Merged masks, scored by what they show and what they hide, until the map has settled.

    1. One forward and backward: :math:`\alpha_k` as in SISE. The contributions :math:`\alpha_k A_k` of a layer's
       positive maps are merged into at most ``merged`` sums of one shape each (k-means on the shapes); each sum,
       enlarged and scaled to 0..1, is a mask m, at stake :math:`\sum_k \sum_\lambda \alpha_k A_k`.
    2. In order of their stakes, :math:`w_m = \Psi(I \odot m) \, [\Psi(I) - \Psi(I \odot (1 - m))]_+`.
    3. :math:`V_l = \sum_m w_m m / \sum_\lambda m`, scaled to 0..1; :math:`E = V_1`, then
       :math:`E \leftarrow (E + V_l) \odot V_l` from fine to coarse.
    4. Of this E and of other fusions (`fusions`) the one with the largest
       :math:`\sum_p \Psi(I \odot T_p) - \Psi(I \odot (1 - T_p))`, :math:`T_p` its top 8, 15 and 25 % of pixels,
       scaled to 0..1, to the power s.

    Where hiding lowers the confidence for no mask at all, :math:`w_m = \Psi(I \odot m)`. After each round of 16 masks
    the fused map is compared with the one before it; if their correlation exceeds ``settled``, it is done.

    Parameters
    ----------
    model, layers, chunk, confidence
        As for `Explainer`.
    merged : int
        Masks of a layer at most.
    budget : int
        Forwards at most, the first one included; 4 or more.
    seconds : float, optional
        Time at most: no round starts after it.
    settled : float
        Correlation of successive maps above which asking ends; 1 never ends early.
    sharpness : float
        s > 0: how far the map's energy gathers at its highest places. The order of pixels stays.
    choose : bool
        Whether to take step 4: up to 36 forwards, at most a quarter of the budget.
    precision : {"auto", "float32", "bfloat16"}
        Of the questions' forwards. "auto" takes bfloat16 where the processor multiplies in it.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> FrugalSISE(model, budget=20).attribute(torch.rand(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        *settings: Any,
        merged: int = 16,
        budget: int = 200,
        seconds: float | None = None,
        settled: float = 0.99,
        sharpness: float = 2.0,
        choose: bool = True,
        precision: str = "auto",
        **more: Any,
    ) -> None:
        super().__init__(model, *settings, **more)
        if merged < 1 or budget < 4 or not 0 < settled <= 1 or (seconds is not None and not seconds > 0):
            raise SettingError(
                f"merged is {merged}, budget {budget}, settled {settled}, seconds {seconds}; "
                "expected 1 or more, 4 or more forwards, a correlation up to 1, and a time above 0"
            )
        if not sharpness > 0:
            raise SettingError(f"sharpness is {sharpness}; expected a power above 0")
        if precision not in ("auto", "float32", "bfloat16"):
            raise SettingError(f"precision is {precision!r}; expected 'auto', 'float32' or 'bfloat16'")
        self.merged, self.budget, self.seconds, self.settled = merged, budget, seconds, settled
        self.sharpness, self.choose, self.precision = sharpness, choose, precision

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, 0..1."""
        start = time.monotonic()
        size = (x.shape[2], x.shape[3])
        pairs = [(A[0], g[0]) for A, g in self.maps_and_gradients(x, target, of="log-odds")]
        layers = [self.merge(A, g) for A, g in pairs]
        stakes = torch.cat([s / s.sum().clamp(min=1e-30) for _, s in layers])  # each layer has the same say
        places = [(layer, i) for layer, (sums, _) in enumerate(layers) for i in range(len(sums))]
        fusions_asked = min(_FUSIONS, self.budget // 4 // (2 * len(_TOPS))) if self.choose else 0
        masks_asked = (self.budget - 2 - 2 * len(_TOPS) * fusions_asked) // 2
        order = stakes.argsort(descending=True, stable=True)[:masks_asked].tolist()
        E = torch.zeros(size, device=x.device)
        if not order:
            return E
        whole = self.ask(x, target)
        matters = [torch.zeros(size, device=x.device) for _ in layers]
        suffices = [torch.zeros(size, device=x.device) for _ in layers]
        for begin in range(0, len(order), _ROUND):
            chosen = [places[j] for j in order[begin : begin + _ROUND]]
            m = torch.cat([masks(layers[layer][0][i : i + 1], size) for layer, i in chosen])
            shown = x * m[:, None].to(x.dtype)
            kept, hidden = self.ask(torch.cat([shown, x - shown]), target).chunk(2)
            w, left = (v / m.sum((1, 2)) for v in (kept * (whole - hidden).clamp(min=0), kept))
            for j, (layer, _) in enumerate(chosen):
                matters[layer] = matters[layer] + w[j] * m[j]
                suffices[layer] = suffices[layer] + left[j] * m[j]
            V = matters if any(bool(v.any()) for v in matters) else suffices
            before, E = E, product(V)
            out_of_time = self.seconds is not None and time.monotonic() - start > self.seconds
            if out_of_time or _correlation(before, E) > self.settled:
                break
        if fusions_asked > 1 and not out_of_time:
            cams = [gradient_maps(A, g, size) for A, g in pairs]
            E = self.confirmed(x, target, fusions(V, [a for a, _ in cams], [b for _, b in cams])[:fusions_asked])
        return E**self.sharpness

    def confirmed(self, x: Tensor, target: Tensor, candidates: list[Tensor]) -> Tensor:
        """The candidate whose top pixels keep most of Ψ, and whose other pixels keep least."""
        count = [max(1, round(p * candidates[0].numel())) for p in _TOPS]
        tops = [torch.cat([top_pixels(E[None, None], n) for n in count]) for E in candidates]
        T = torch.stack(tops).reshape(len(candidates) * len(_TOPS), 1, *x.shape[2:]).to(x.dtype)
        shown = x * T
        kept, left = self.ask(torch.cat([shown, x - shown]), target).chunk(2)
        return candidates[int((kept - left).reshape(len(candidates), -1).sum(1).argmax())]

    def merge(self, A: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Sums ``[r, h, w]`` of a layer's positive contributions by shape, and what is at stake in each ``[r]``."""
        alpha = gradient.sum((1, 2))
        use = (alpha > 0) & (A.flatten(1).amax(1) > A.flatten(1).amin(1))
        part = A[use] * alpha[use][:, None, None]
        if len(part) > self.merged:
            side = (min(_SIDE, part.shape[1]), min(_SIDE, part.shape[2]))
            shape = F.adaptive_avg_pool2d(part[None], side)[0].flatten(1)
            shape = F.normalize(shape - shape.mean(1, keepdim=True), dim=1)
            nearest = torch.cdist(shape, kmeans(shape, self.merged, seed=0)).argmin(1)
            part = torch.zeros(self.merged, *part.shape[1:], device=A.device).index_add_(0, nearest, part)
        part = part[part.flatten(1).amax(1) > part.flatten(1).amin(1)]
        return part, part.clamp(min=0).sum((1, 2))

    def ask(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Ψ ``[n]``, in channels-last layout, in bfloat16 where that is fast."""
        layout = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.use_bfloat16(inputs)):
            return self.score(layout, target).float()

    def use_bfloat16(self, inputs: Tensor) -> bool:
        """Whether to ask in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and fast_bfloat16(inputs.device))


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
