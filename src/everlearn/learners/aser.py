"""ASER: adversarial Shapley value experience replay.

Shim, Mai, Jeong, Sanner, Kim, Jang 2021, *Online Class-Incremental Continual Learning with Adversarial Shapley Value*
(AAAI 2021, arXiv 2009.00093). Letters: S a class-balanced sample of memory to evaluate on, C the candidates out of
memory, B the incoming batch; f their features, s_S and s_B the KNN-Shapley values of C for S and for B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.learner import Learner, StepReport
from everlearn.memory import reservoir
from everlearn.models import Model
from everlearn.valuation import knn_shapley

NOBODY = -1
"""The class of a candidate that is none."""
FAR = 1e4
"""All its features."""
REST = 8
"""Steps for which a retrieved candidate is not retrieved again; fewer where there are few candidates."""


class ASER(Learner):
    r"""Replay what defends the remembered classes and disturbs the incoming ones; keep what has the highest value.

    Until memory has filled once, retrieval is uniform and memory a reservoir. Then each step

    1. retrieves the candidates i ∈ C with the highest
       :math:`ASV_\mu(i) = \mathrm{mean}_{j∈S}\, s_j(i) − \mathrm{mean}_{k∈B}\, s_k(i)`,
    2. takes one optimisation step on them joined with B,
    3. values C ∪ B by :math:`\sum_{j∈S'} s_j(i)`, where S' also holds the incoming samples of rare classes, and keeps
       the best, as many as C has.

    Parameters
    ----------
    model, optimizer
        As for `Learner`.
    k : int
        Neighbours that vote.
    candidates : int
        Memory samples in C.
    per_class : int
        Samples of each class in S; with many classes fewer, so that S has at most half as many as C, and with exact
        scoring at most as many.
    value : {"asvm", "asv", "neg"}
        ASVμ; ASV, max over S − min over B; or −Σ over B alone.
    shapley_retrieval, shapley_update : bool
        Switch either half off: retrieval is then uniform, the update a reservoir.
    scoring : {"cached", "free", "exact"}
        "exact" draws and encodes C (class-balanced) and S for the retrieval and again, after the step, for the update,
        as the paper has it. "cached" draws them once for ``refresh`` steps, and the last S joins the next C with the
        features it has, so that a sample drawn is encoded once for both; a candidate that was retrieved rests for eight
        steps. Only the incoming batch is encoded at every step. "free" does not encode it either: the features that
        its training step computed value it for the update, and stand for the incoming batch in the next retrieval.
        Neither of the two waits for an accelerator in a step.
    refresh : int
        Steps for which C and S are kept; fewer where C would run out.
    mix : float
        A retrieved batch holds of each class at most this many times an equal share, while there are others: values
        of one class lie close together, and without a bound the ten highest are often of a single class. ``math.inf``
        bounds nothing, as the paper has it.
    **settings
        As for `Learner`.

    Examples
    --------
    >>> import torch
    >>> from everlearn.models import build_model
    >>> learner = ASER(build_model("slim_resnet18", channels=1, size=8), memory=20)
    >>> batch = Batch(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10) % 2)
    >>> [learner.observe(batch).step for _ in range(4)]
    [1, 2, 3, 4]
    """

    own = ("",)  # what was drawn and encoded, of each process's own memory

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        k: int = 3,
        candidates: int = 180,
        per_class: int = 9,
        value: str = "asvm",
        shapley_retrieval: bool = True,
        shapley_update: bool = True,
        scoring: str = "cached",
        refresh: int = 16,
        mix: float = 2.0,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if value not in ("asv", "asvm", "neg"):
            raise SettingError(f"value is {value!r}; expected 'asv', 'asvm' or 'neg'")
        if scoring not in ("cached", "free", "exact"):
            raise SettingError(f"scoring is {scoring!r}; expected 'cached', 'free' or 'exact'")
        if min(k, candidates, per_class, refresh) < 1:
            found = f"k {k}, candidates {candidates}, per_class {per_class}, refresh {refresh}"
            raise SettingError(f"{found}; expected 1 or more of each")
        self.k, self.candidates, self.per_class, self.value = k, candidates, per_class, value
        self.shapley_retrieval, self.shapley_update = shapley_retrieval, shapley_update
        if mix < 1:
            raise SettingError(f"mix is {mix}; expected 1 (equal shares) or more")
        self.scoring, self.refresh, self.mix = scoring, refresh, mix
        self._cached: _Drawn | None = None
        self._last: tuple[Tensor, Tensor] | None = None  # features and classes of the batch before
        self._seen = torch.zeros(0)

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        inputs, targets, slots = x, y, None
        scored = self.memory.full and (self.shapley_retrieval or self.shapley_update)
        B = (self.encode(x), y) if scored and self.scoring != "free" else self._last
        if self.memory.size:
            slots = self._retrieve(*B) if B is not None and scored and self.shapley_retrieval else self._uniform()
            m = self.recall(slots)
            inputs, targets = torch.cat([m.inputs, x]), torch.cat([m.targets, y])
        loss = self.train_step(inputs, targets, slots)
        if self.scoring == "free":
            B = self._last = self._seen[len(inputs) - len(x) : len(inputs)], y
        if B is not None and scored and self.shapley_update:
            self._update(x, y, batch.ids, self.encode(x) if self.scoring == "exact" else B[0])
        else:
            reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def embed(self, inputs: Tensor, together: bool = True) -> Tensor:
        """As `Learner.embed`; the features serve the scoring too."""
        features = super().embed(inputs, together)
        self._seen = features.detach()
        return features

    def _uniform(self) -> Tensor:
        return self.memory.draw(self.replay, self.generator)

    def _retrieve(self, f_B: Tensor, y: Tensor) -> Tensor:
        """Slots of the candidates with the highest adversarial Shapley value."""
        drawn = self._drawn(balanced=True)
        s_S = knn_shapley(drawn.f_S, drawn.y_S, drawn.f_C, drawn.y_C, self.k)
        s_B = knn_shapley(f_B, y, drawn.f_C, drawn.y_C, self.k)
        if self.value == "asvm":
            worth = drawn.w_S @ s_S / drawn.w_S.sum().clamp(min=1) - s_B.mean(0)
        elif self.value == "asv":
            worth = torch.where(drawn.w_S[:, None] > 0, s_S, -1).amax(0) - s_B.amin(0)
        else:
            worth = -s_B.sum(0)
        resting = self.step - drawn.used < drawn.rest
        barred = resting | (drawn.y_C == NOBODY) | (self.memory.steps[drawn.C] >= drawn.born)
        worth = worth.masked_fill(barred, -torch.inf)
        best = self._mixed(worth, drawn.y_C).topk(min(self.replay, len(worth))).indices
        drawn.used[best] = self.step
        return drawn.C[best]

    def _mixed(self, worth: Tensor, y_C: Tensor) -> Tensor:
        """Put what exceeds ``mix`` × an equal share of its class behind all others."""
        if math.isinf(self.mix):
            return worth
        share = math.ceil(self.mix * self.replay / len(self.classes.codes))
        return worth - (rank_within(worth, y_C) // share) * 1e6

    def _update(self, x: Tensor, y: Tensor, ids: Tensor, f_B: Tensor) -> None:
        """Exchange the least valuable candidates for incoming samples of higher value."""
        drawn, memory, classes = self._drawn(), self.memory, len(self.classes.codes)
        counts = torch.cat([memory.counts, memory.counts.new_zeros(classes - memory.n_classes)])
        threshold = torch.rand((), generator=self.generator) / classes
        rare = counts[y] / memory.size < threshold.to(self.device, non_blocking=True)
        S_ = torch.cat([drawn.f_S, f_B]), torch.cat([drawn.y_S, y])  # S': weight 0 is out of it
        s = knn_shapley(*S_, torch.cat([drawn.f_C, f_B]), torch.cat([drawn.y_C, y]), self.k)
        n, b = len(drawn.C), len(y)
        value = torch.cat([drawn.w_S, rare.float()]) @ s
        value[:n].masked_fill_(drawn.y_C == NOBODY, torch.inf)  # its slot is not a candidate's to give away
        order = value.argsort(descending=True, stable=True)
        kept = torch.zeros(n + b, dtype=torch.bool, device=self.device).scatter(0, order[:n], True)
        enters = kept[n:].argsort(descending=True, stable=True)  # incoming samples, those that enter first
        leaves = kept[:n].to(torch.uint8).argsort(stable=True)[:b]  # candidates, those that leave first
        keep = torch.arange(len(leaves), device=self.device) < kept[n:].sum()
        enters = enters[: len(leaves)]
        memory.write(
            drawn.C[leaves], x[enters], y[enters], ids.to(self.device)[enters], self.step, classes=classes, keep=keep
        )
        drawn.f_C[leaves] = torch.where(keep[:, None], f_B[enters], drawn.f_C[leaves])
        drawn.y_C[leaves] = torch.where(keep, y[enters], drawn.y_C[leaves])

    def _drawn(self, balanced: bool = False) -> _Drawn:
        """C and S with their features: those at hand, or drawn anew."""
        if self.scoring == "exact":
            return self._draw(balanced)
        held = self._cached
        if held is None or self.step - held.born >= min(self.refresh, 2 * held.rest):
            held = self._cached = self._draw(balanced=False, before=held)
        return held

    def _draw(self, balanced: bool, before: _Drawn | None = None) -> _Drawn:
        """Draw C and S and encode them, but for the last S, which joins C with the features it has."""
        memory, classes = self.memory, self.memory.n_classes
        most = self.candidates if self.scoring == "exact" else self.candidates // 2
        n = max(1, min(self.per_class, most // classes, memory.size // (2 * classes)))
        slots, valid = memory.draw_balanced(2 * n if balanced else n, self.generator)
        S, w_S = slots[:, :n].flatten(), valid[:, :n].flatten().float()
        is_C: Tensor | None = None
        if before is not None and len(S) + len(before.S) >= memory.size:
            before = None
        if balanced:
            C, is_C = slots[:, n:].flatten(), valid[:, n:].flatten()
        else:
            known = S[:0] if before is None else before.S
            C = self._others(torch.cat([S, known]), len(known))
        f = self.encode(memory.take(torch.cat([C, S])).inputs, 64 if self.device.type == "cpu" else 1024)
        f_C, f_S = f[: len(C)].clone(), f[len(C) :]
        if before is not None:
            again = (before.w_S > 0) & ~torch.isin(before.S, S) & (memory.steps[before.S] < before.born)
            is_C = torch.cat([torch.ones_like(C, dtype=torch.bool), again])
            C, f_C = torch.cat([C, before.S]), torch.cat([f_C, before.f_S])
        y_C = memory.targets[C]
        if is_C is not None:  # a candidate that is none: far from all and of no class, it changes nobody's value
            f_C, y_C = torch.where(is_C[:, None], f_C, FAR), torch.where(is_C, y_C, NOBODY)
        rest = max(1, min(REST, len(C) // (2 * self.replay)))
        used = torch.full_like(y_C, self.step - rest)
        return _Drawn(C, S, f_C, f_S, y_C, memory.targets[S], w_S, used, self.step, rest)

    def _others(self, these: Tensor, fewer: int) -> Tensor:
        """A uniform draw of candidates out of memory without ``these``, ``fewer`` than all, where memory has them."""
        u = torch.rand(self.memory.size, generator=self.generator).to(self.device, non_blocking=True)
        u[these] = 2
        return u.topk(max(1, min(self.candidates - fewer, len(u) - len(these))), largest=False, sorted=False).indices

    def renew(self, slots: Tensor) -> None:
        """As for every learner; a slot that was drawn for the sample before stands neither in C nor in S."""
        super().renew(slots)
        if (drawn := self._cached) is not None:
            gone = torch.isin(drawn.C, slots)
            drawn.f_C[gone], drawn.y_C[gone] = FAR, NOBODY
            drawn.w_S[torch.isin(drawn.S, slots)] = 0

    def drop(self, slots: Tensor) -> None:
        """As for every learner; C and S are drawn anew, since slots close up."""
        self._cached = None
        super().drop(slots)

    def rule_state(self) -> dict[str, Tensor]:
        """What has been drawn and encoded, for the steps it still serves, and the batch before."""
        last = {} if self._last is None else dict(zip(("f_B", "y_B"), self._last))
        held = {} if self._cached is None else vars(self._cached)
        return last | {name: t if isinstance(t, Tensor) else torch.tensor(t) for name, t in held.items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        held = {name: tensor.to(self.device) for name, tensor in state.items()}
        self._last = (held.pop("f_B"), held.pop("y_B")) if "f_B" in held else None
        self._cached = None
        if held:
            born, rest = (int(held.pop(name)) for name in ("born", "rest"))
            self._cached = _Drawn(**held, born=born, rest=rest)


@dataclass
class _Drawn:
    """Slots ``C`` and ``S`` as they were drawn at step ``born``, with features, classes, weights 0 or 1 of S's members,
    the step at which each candidate was last retrieved, and for how many steps it then rests."""

    C: Tensor
    S: Tensor
    f_C: Tensor
    f_S: Tensor
    y_C: Tensor
    y_S: Tensor
    w_S: Tensor
    used: Tensor
    born: int
    rest: int


def rank_within(values: Tensor, groups: Tensor) -> Tensor:
    """``[n]`` place of each value in its own group, 0 for the highest.

    Examples
    --------
    >>> rank_within(torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([0, 0, 1, 0])).tolist()
    [2, 0, 0, 1]
    """
    order = values.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    place = torch.arange(len(values), device=values.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).scatter_(0, order, place)
