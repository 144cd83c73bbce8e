"""Frugal SISE: the most faithfulness for each forward. Everlearn's own, after SISE (whose patent `sise` names).

SISE's figures say that most of its masks add nothing. Many of a layer's feature maps are the same shape, so their masks
ask the model the same question: here one of them asks for all. It asks two questions, what is left when it alone is
shown and what is lost when it is hidden; SISE asks the first only. Only the two coarsest layers are asked about: where
exactly things are, the finer ones say in their gradients, without a forward. The masks with most at stake come first,
and asking ends when the map has settled or the budget is spent. Which pixels of an object count most, the gradient at
the input says, again without a forward. Unlike SISE's, the fusion has no threshold: it would make most pixels equal,
and their order is what faithfulness measures. No single fusion is best for all pictures, so the model is asked once
more, about the top pixels of a few that all keep to the object: the one it confirms is the map.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.explainers.fusions import edges, fine_map, fusions, gradient_maps, levelled, product
from everlearn.explainers.sise import masks
from everlearn.explainers.token_sampling import kmeans
from everlearn.learners.learner import fast_bfloat16
from everlearn.metrics.faithfulness import blur
from everlearn.metrics.localisation import top_pixels

_SIDE = 14  # shapes are compared at this resolution
_ROUND = 16  # masks asked about between two looks at the map
_LAYERS = 2  # coarsest layers that are asked about
_SHOWN = (0.04, 0.08, 0.15, 0.25, 0.4)  # shares of the pixels that are shown on the blurred picture
_HIDDEN = (0.08, 0.15, 0.25)
_ALONE = 0.15
_FUSIONS = 8
_EACH = len(_SHOWN) + len(_HIDDEN) + 1  # forwards for a fusion


class FrugalSISE(Explainer):
    r"""Masks that speak for many, scored by what they show and what they hide; then the fusion that the model confirms.

    1. One forward and backward: :math:`\alpha_k` as in SISE. The positive maps of each of the two coarsest layers fall
       into at most ``merged`` groups of one shape (k-means); :math:`n_k` is a map scaled to 0..1, over its sum.
    2. In order of :math:`\sum_{k \in c} \alpha_k \sum_\lambda A_k` the group's middle map, enlarged, is a mask m:
       :math:`s_c = \Psi(I \odot m)` and :math:`h_c = [\Psi(I) - \Psi(I \odot (1 - m))]_+`.
    3. :math:`K_l = \sum_k s_{c(k)} n_k`, :math:`D_l = \sum_k h_{c(k)} n_k`; of two layers
       :math:`E \leftarrow (E + V_l) \odot V_l` from fine to coarse, for K and for D.
    4. F is the mean of the finer layers' LayerCAM maps, e the fourth root of :math:`|I \odot \partial y/\partial I|`
       over its mean. Of :math:`(D + K) \odot F \odot e` and other `fusions`, the one with the largest
       :math:`\Psi(I \odot T_{15}) + \overline{\Psi(I \odot T_p + B \odot (1 - T_p))} -
       2\,\overline{\Psi(I \odot (1 - T_q))}`, `levelled`, to the power s: :math:`T_p` its top p % of pixels, B the
       blurred picture, means over p = 4, 8, 15, 25, 40 and q = 8, 15, 25.

    After each round of 16 masks the map is compared with the one before it; if their correlation exceeds ``settled``,
    it is done.

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
        Whether to choose among fusions: 72 forwards, at most two fifths of the budget; else (D + K) ⊙ F ⊙ e.
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
        merged: int = 24,
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
        start, size = time.monotonic(), (x.shape[2], x.shape[3])
        (inputs, gradient), *pairs = (
            (A[0], g[0]) for A, g in self.maps_and_gradients(x, target, of="log-odds", pixels=True)
        )
        cams = [gradient_maps(A, g, size) for A, g in pairs]
        layer_cams = [layer_cam for layer_cam, _ in cams]
        groups = [Groups(A, g, self.merged) for A, g in pairs[-_LAYERS:]]
        fusions_asked = min(_FUSIONS, 2 * self.budget // 5 // _EACH) if self.choose else 0
        most = (self.budget - 2 - _EACH * fusions_asked) // 2
        if not any(each.stakes for each in groups):
            return torch.zeros(size, device=x.device)
        fine, edge = fine_map(layer_cams), edges(inputs, gradient)
        D, K = self.asked(x, target, groups, most, fine, start)
        candidates = fusions(D, K, fine, layer_cams, cams[-1][1], edge)
        if fusions_asked > 1 and len(candidates) > 1 and not self.late(start):
            return levelled(self.confirmed(x, target, candidates[:fusions_asked])) ** self.sharpness
        return levelled((D + K) * fine * edge) ** self.sharpness

    def asked(
        self, x: Tensor, target: Tensor, groups: list[Groups], most: int, fine: Tensor, start: float
    ) -> tuple[Tensor, Tensor]:
        """D and K ``[H, W]``, 0..1, after at most ``most`` masks."""
        size = (x.shape[2], x.shape[3])
        places = [(-stake, i, c) for i, each in enumerate(groups) for c, stake in enumerate(each.stakes)]
        order = [(i, c) for _, i, c in sorted(places)][:most]
        whole = self.ask(x, target)
        D = K = E = torch.zeros(size, device=x.device)
        for begin in range(0, len(order), _ROUND):
            chosen = order[begin : begin + _ROUND]
            m = torch.cat([masks(groups[i].middle(c), size) for i, c in chosen])
            shown = x * m[:, None].to(x.dtype)
            kept, hidden = self.ask(torch.cat([shown, x - shown]), target).chunk(2)
            for (i, c), s, h in zip(chosen, kept, (whole - hidden).clamp(min=0)):
                groups[i].kept[c], groups[i].lost[c] = s, h
            D = product([each.map(each.lost, size) for each in groups])
            K = product([each.map(each.kept, size) for each in groups])
            before, E = E, (D + K) * fine
            if self.late(start) or _correlation(before, E) > self.settled:
                break
        return D, K

    def late(self, start: float) -> bool:
        """Whether the time is spent."""
        return self.seconds is not None and time.monotonic() - start > self.seconds

    def confirmed(self, x: Tensor, target: Tensor, candidates: list[Tensor]) -> Tensor:
        """The candidate whose top pixels keep most of Ψ, alone and on the blurred picture, and leave least of it."""
        best, most = candidates[0], -torch.inf
        B = blur(x, max(x.shape[2:]) / 20)
        for E in candidates:
            T = {p: self.top(E, p).to(x.dtype) for p in _SHOWN}
            shown = [x * T[p] + B * (1 - T[p]) for p in _SHOWN]
            psi = self.ask(torch.cat([x * T[_ALONE], *shown, *(x * (1 - T[q]) for q in _HIDDEN)]), target)
            found = float(psi[0] + psi[1 : 1 + len(_SHOWN)].mean() - 2 * psi[1 + len(_SHOWN) :].mean())
            if found > most:
                best, most = E, found
        return best

    def top(self, E: Tensor, share: float) -> Tensor:
        """The top share of pixels as a mask ``[H, W]``."""
        return top_pixels(E[None, None], max(1, round(share * E.numel()))).reshape(E.shape)

    def ask(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Ψ ``[n]``, in channels-last layout, in bfloat16 where that is fast."""
        layout = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.use_bfloat16(inputs)):
            return self.score(layout, target).float()

    def use_bfloat16(self, inputs: Tensor) -> bool:
        """Whether to ask in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and fast_bfloat16(inputs.device))


class Groups:
    """The positive maps of one layer in groups of one shape, and what the model said of each group.

    Parameters
    ----------
    A, gradient : Tensor
        ``[K, h, w]``.
    most : int
        Groups at most.
    """

    def __init__(self, A: Tensor, gradient: Tensor, most: int) -> None:
        alpha = gradient.sum((1, 2))
        use = (alpha > 0) & (A.flatten(1).amax(1) > A.flatten(1).amin(1))
        self.A = A[use]
        low, high = self.A.amin((1, 2), keepdim=True), self.A.amax((1, 2), keepdim=True)
        m = (self.A - low) / (high - low)
        self.n = m / m.sum((1, 2), keepdim=True)
        shape = F.adaptive_avg_pool2d(m[None], (min(_SIDE, A.shape[1]), min(_SIDE, A.shape[2])))[0].flatten(1)
        self.group = self.middles = torch.arange(len(m), device=A.device)
        if len(m) > most:
            apart = torch.cdist(shape, kmeans(shape, most, seed=0))
            self.group, self.middles = apart.argmin(1), apart.argmin(0)
        at_stake = (alpha[use] * self.A.clamp(min=0).sum((1, 2))).double()
        sums = at_stake.new_zeros(len(self.middles)).index_add_(0, self.group, at_stake)
        self.stakes: list[float] = (sums / sums.sum().clamp(min=1e-30)).tolist()  # each layer has the same say
        self.kept, self.lost = (m.new_zeros(len(self.middles)) for _ in range(2))

    def middle(self, c: int) -> Tensor:
        """The map ``[1, h, w]`` in the middle of group c."""
        return self.A[self.middles[c]][None]

    def map(self, w: Tensor, size: tuple[int, int]) -> Tensor:
        """Σ_k w_c(k) n_k ``[H, W]``; w, what was kept or lost, is 0 for groups not asked about."""
        V = torch.einsum("k,khw->hw", w[self.group], self.n)
        return F.interpolate(V[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
