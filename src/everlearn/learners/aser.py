"""ASER: adversarial Shapley value experience replay.

Shim, Mai, Jeong, Sanner, Kim, Jang 2021, *Online Class-Incremental Continual Learning with Adversarial Shapley Value*
(AAAI 2021, arXiv 2009.00093). Letters: S a class-balanced sample of memory to evaluate on, C the candidates out of
memory, B the incoming batch; f their features, s_S and s_B the KNN-Shapley values of C for S and for B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.learner import Learner, StepReport
from everlearn.learners.window import FAR, NOBODY, REST, Drawn, Window
from everlearn.memory import reservoir
from everlearn.models import Model
from everlearn.valuation import knn_shapley


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
        Samples of each class in S with exact scoring; with many classes fewer, so that S has at most as many as C.
    value : {"asvm", "asv", "neg"}
        ASVμ; ASV, max over S − min over B; or −Σ over B alone.
    shapley_retrieval, shapley_update : bool
        Switch either half off: retrieval is then uniform, the update a reservoir.
    scoring : {"cached", "exact"}
        "exact" draws and encodes C (class-balanced) and S for the retrieval and again, after the step, for the update,
        as the paper has it. "cached" takes them from a window that slides over memory: each step encodes, in one
        forward with the incoming batch, a part of C and S anew. S has half as many as C, classes in equal shares; what
        leaves S joins C with the features it has; a candidate that was retrieved rests for eight steps. No step waits
        for an accelerator.
    refresh : int
        Steps after which all of S has been drawn anew; fewer, down to a half, where memory holds less than 20 times as
        many.
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
        candidates: int = 120,
        per_class: int = 9,
        value: str = "asvm",
        shapley_retrieval: bool = True,
        shapley_update: bool = True,
        scoring: str = "cached",
        refresh: int = 30,
        mix: float = 2.0,
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if value not in ("asv", "asvm", "neg"):
            raise SettingError(f"value is {value!r}; expected 'asv', 'asvm' or 'neg'")
        if scoring not in ("cached", "exact"):
            raise SettingError(f"scoring is {scoring!r}; expected 'cached' or 'exact'")
        if min(k, candidates, per_class, refresh) < 1:
            found = f"k {k}, candidates {candidates}, per_class {per_class}, refresh {refresh}"
            raise SettingError(f"{found}; expected 1 or more of each")
        self.k, self.candidates, self.per_class, self.value = k, candidates, per_class, value
        self.shapley_retrieval, self.shapley_update = shapley_retrieval, shapley_update
        if mix < 1:
            raise SettingError(f"mix is {mix}; expected 1 (equal shares) or more")
        self.scoring, self.refresh, self.mix = scoring, refresh, mix
        self._window: Window | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        inputs, targets, slots = x, y, None
        scored = self.memory.full and (self.shapley_retrieval or self.shapley_update)
        f_B = self._look_around(x) if scored else self.none
        if self.memory.size:
            slots = self._retrieve(f_B, y) if scored and self.shapley_retrieval else self._uniform()
            m = self.recall(slots)
            inputs, targets = torch.cat([m.inputs, x]), torch.cat([m.targets, y])
        loss = self.train_step(inputs, targets, slots)
        if scored and self.shapley_update:
            self._update(x, y, batch.ids, self.encode(x) if self.scoring == "exact" else f_B)
        else:
            reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def _look_around(self, x: Tensor) -> Tensor:
        """Features of the incoming batch and, in the same forward, of what comes into C and S."""
        if self.scoring == "exact":
            return self.encode(x)
        rows = 1
        if self._window is None:
            refresh = min(self.refresh, max(1, self.refresh // 2, self.memory.capacity // 20))
            self._window = Window.over(self.memory, self.candidates, refresh, self.model.feature_dim)
            rows = self._window.rows
        slots = self._window.slide(self.memory, self.generator, self.step, rows)
        f = self.encode(torch.cat([x, self.memory.take(slots).inputs]))
        self._window.fill(f[len(x) :])
        return f[: len(x)]

    def _uniform(self) -> Tensor:
        return self.memory.draw(self.replay, self.generator)

    def _retrieve(self, f_B: Tensor, y: Tensor) -> Tensor:
        """Slots of the candidates with the highest adversarial Shapley value."""
        drawn = self._drawn(balanced=True)
        evaluated = torch.cat([drawn.f_S, f_B]), torch.cat([drawn.y_S, y])
        s_S, s_B = knn_shapley(*evaluated, drawn.f_C, drawn.y_C, self.k).split([len(drawn.y_S), len(y)])
        if self.value == "asvm":
            worth = drawn.w_S @ s_S / drawn.w_S.sum().clamp(min=1) - s_B.mean(0)
        elif self.value == "asv":
            worth = torch.where(drawn.w_S[:, None] > 0, s_S, -1).amax(0) - s_B.amin(0)
        else:
            worth = -s_B.sum(0)
        resting = self.step - drawn.since < max(1, min(REST, len(drawn.C) // (2 * self.replay)))
        barred = resting | (drawn.y_C == NOBODY) | (self.memory.steps[drawn.C] != drawn.came)
        worth = worth.masked_fill(barred, -torch.inf)
        slots = self._uniform()  # stand where candidates run out
        best = self._mixed(worth, drawn.y_C).topk(min(len(slots), len(worth))).indices
        slots[: len(best)] = torch.where(barred[best], slots[: len(best)], drawn.C[best])
        drawn.since[best] = self.step
        return slots

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
        best, enters = value[n:].sort(descending=True, stable=True)
        least, leaves = value[:n].topk(min(n, b), largest=False)
        enters, keep = enters[: len(leaves)], best[: len(leaves)] > least
        memory.write(
            drawn.C[leaves], x[enters], y[enters], ids.to(self.device)[enters], self.step, classes=classes, keep=keep
        )
        drawn.f_C[leaves] = torch.where(keep[:, None], f_B[enters], drawn.f_C[leaves])
        drawn.y_C[leaves] = torch.where(keep, y[enters], drawn.y_C[leaves])
        for when in (drawn.since, drawn.came):
            when[leaves] = torch.where(keep, self.step, when[leaves])

    def _drawn(self, balanced: bool = False) -> Drawn:
        """C and S with their features."""
        return self._draw(balanced) if self._window is None else self._window.drawn()

    def _draw(self, balanced: bool) -> Drawn:
        """Draw C, class-balanced or not, and S, and encode them."""
        memory, classes = self.memory, self.memory.n_classes
        n = max(1, min(self.per_class, self.candidates // classes, memory.size // (2 * classes)))
        slots, valid = memory.draw_balanced(2 * n if balanced else n, self.generator)
        S, is_S = slots[:, :n].flatten(), valid[:, :n].flatten()
        if balanced:
            C, is_C = slots[:, n:].flatten(), valid[:, n:].flatten()
        else:
            C = self._others(S)
            is_C = torch.ones_like(C, dtype=torch.bool)
        f = self.encode(memory.take(torch.cat([C, S])).inputs)
        f_C = torch.where(is_C[:, None], f[: len(C)], FAR)
        y_C, y_S = (torch.where(has, memory.targets[of], NOBODY) for of, has in ((C, is_C), (S, is_S)))
        return Drawn(C, f_C, y_C, torch.full_like(C, self.step - REST), memory.steps[C], f[len(C) :], y_S)

    def _others(self, these: Tensor) -> Tensor:
        """A uniform draw of candidates out of memory without ``these``, where memory has more."""
        u = torch.rand(self.memory.size, generator=self.generator).to(self.device, non_blocking=True)
        u[these] = 2
        return u.topk(max(1, min(self.candidates, len(u) - len(these))), largest=False, sorted=False).indices

    def renew(self, slots: Tensor) -> None:
        """As for every learner; a slot that was drawn for the sample before stands neither in C nor in S."""
        super().renew(slots)
        if self._window is not None:
            self._window.forget(slots)

    def drop(self, slots: Tensor) -> None:
        """As for every learner; C and S are drawn anew, since slots close up."""
        self._window = None
        super().drop(slots)

    def rule_state(self) -> dict[str, Tensor]:
        """What has been drawn and encoded, for the steps it still serves."""
        return {} if self._window is None else self._window.state()

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self._window = None
        if "slots" in state:  # what an earlier version drew is drawn anew
            held = {name: t.to(self.device) for name, t in state.items() if name != "turn"}
            self._window = Window(**held, turn=int(state["turn"]))


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
