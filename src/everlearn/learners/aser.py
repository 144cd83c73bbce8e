"""ASER: adversarial Shapley value experience replay.

Shim, Mai, Jeong, Sanner, Kim, Jang 2021, *Online Class-Incremental Continual Learning with Adversarial Shapley Value*
(AAAI 2021, arXiv 2009.00093). Letters: S a class-balanced sample of memory to evaluate on, C the candidates out of
memory, B the incoming batch; f their features, s_S and s_B the KNN-Shapley values of C for S and for B.
"""

from __future__ import annotations

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
        Memory samples that the update puts up for exchange.
    per_class : int
        Samples of each class in S; with many classes fewer, so that S stays below twice the candidates.
    value : {"asvm", "asv", "neg"}
        ASVμ; ASV, max over S − min over B; or −Σ over B alone.
    shapley_retrieval, shapley_update : bool
        Switch either half off: retrieval is then uniform, the update a reservoir.
    scoring : {"relay", "exact"}
        "exact" draws C (class-balanced) and S anew for retrieval and again for the update, as the paper has it. "relay"
        takes over the update's C and S, with the features the update has just computed, for the next retrieval: the
        weights have not changed since, so nothing is stale, and half of the forwards are saved.
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

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        k: int = 3,
        candidates: int = 90,
        per_class: int = 9,
        value: str = "asvm",
        shapley_retrieval: bool = True,
        shapley_update: bool = True,
        scoring: str = "relay",
        **settings: Any,
    ) -> None:
        super().__init__(model, optimizer, **settings)
        if value not in ("asv", "asvm", "neg"):
            raise SettingError(f"value is {value!r}; expected 'asv', 'asvm' or 'neg'")
        if scoring not in ("relay", "exact"):
            raise SettingError(f"scoring is {scoring!r}; expected 'relay' or 'exact'")
        if min(k, candidates, per_class) < 1:
            raise SettingError(f"k {k}, candidates {candidates}, per_class {per_class}; expected 1 or more of each")
        self.k, self.candidates, self.per_class, self.value = k, candidates, per_class, value
        self.shapley_retrieval, self.shapley_update, self.scoring = shapley_retrieval, shapley_update, scoring
        self._relayed: _Drawn | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        inputs, targets = x, y
        filled = self.memory.full
        if self.memory.size:
            slots = self._retrieve(x, y) if filled and self.shapley_retrieval else self._uniform()
            m = self.recall(slots)
            inputs, targets = torch.cat([m.inputs, x]), torch.cat([m.targets, y])
        loss = self.train_step(inputs, targets)
        if filled and self.shapley_update:
            self._update(x, y, batch.ids)
        else:
            reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def _uniform(self) -> Tensor:
        return self.memory.draw(self.replay, self.generator)

    def _retrieve(self, x: Tensor, y: Tensor) -> Tensor:
        """Slots of the candidates with the highest adversarial Shapley value."""
        t = self.memory.targets
        drawn = self._relayed
        if drawn is not None:
            f_B = self.features(x)
        else:
            n = self._per_class()
            slots, valid = self.memory.draw_balanced(2 * n, self.generator)
            C, S = slots[:, :n][valid[:, :n]], slots[:, n:][valid[:, n:]]
            drawn, f_B = self._drawn(C, S, x)
        s_S = knn_shapley(drawn.f_S, t[drawn.S], drawn.f_C, t[drawn.C], self.k)
        s_B = knn_shapley(f_B, y, drawn.f_C, t[drawn.C], self.k)
        if self.value == "asvm":
            worth = _mean(s_S) - s_B.mean(0)
        elif self.value == "asv":
            worth = (s_S.amax(0) if len(s_S) else 0) - s_B.amin(0)
        else:
            worth = -s_B.sum(0)
        return drawn.C[worth.topk(min(self.replay, len(worth))).indices]

    def _update(self, x: Tensor, y: Tensor, ids: Tensor) -> None:
        """Exchange the least valuable candidates for incoming samples of higher value."""
        memory, t, classes = self.memory, self.memory.targets, len(self.classes.codes)
        slots, valid = memory.draw_balanced(self._per_class(), self.generator)
        S = slots[valid]
        C = self._others(S)
        drawn, f_B = self._drawn(C, S, x)
        counts = torch.cat([memory.counts, memory.counts.new_zeros(classes - memory.n_classes)])
        threshold = torch.rand((), generator=self.generator) / classes
        rare = counts[y] / memory.size < threshold.to(self.device, non_blocking=True)
        f_eval, y_eval = torch.cat([drawn.f_S, f_B[rare]]), torch.cat([t[S], y[rare]])
        s = knn_shapley(f_eval, y_eval, torch.cat([drawn.f_C, f_B]), torch.cat([t[C], y]), self.k).sum(0)
        order = s.argsort(descending=True, stable=True)
        kept, dropped = order[: len(C)], order[len(C) :]
        enters, leaves = kept[kept >= len(C)] - len(C), dropped[dropped < len(C)]
        if len(enters):
            memory.write(C[leaves], x[enters], y[enters], ids[enters.to(ids.device)], self.step, classes=classes)
            drawn.f_C[leaves] = f_B[enters]
        self._relayed = drawn if self.scoring == "relay" else None

    def _others(self, S: Tensor) -> Tensor:
        """A uniform draw of candidates out of memory without S."""
        free = torch.ones(self.memory.size, dtype=torch.bool, device=self.device)
        free[S] = False
        rest = free.nonzero().flatten()
        return rest[torch.randperm(len(rest), generator=self.generator)[: self.candidates].to(self.device)]

    def _drawn(self, C: Tensor, S: Tensor, x: Tensor) -> tuple[_Drawn, Tensor]:
        """Features of candidates, evaluation set and incoming batch, in one pass."""
        assert self.memory.inputs is not None
        chunk = 64 if self.device.type == "cpu" else 1024  # activations that stay in a processor's cache
        f = self.features(torch.cat([self.memory.inputs[C], self.memory.inputs[S], x]), chunk)
        f_C, f_S, f_B = f.split([len(C), len(S), len(x)])
        return _Drawn(C, S, f_C.clone(), f_S), f_B

    def _per_class(self) -> int:
        return max(1, min(self.per_class, 2 * self.candidates // self.memory.n_classes))

    def rule_state(self) -> dict[str, Tensor]:
        """The draws that the next retrieval takes over."""
        return {} if self._relayed is None else {name: getattr(self._relayed, name) for name in _Drawn.__annotations__}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self._relayed = _Drawn(**{name: tensor.to(self.device) for name, tensor in state.items()}) if state else None


@dataclass(frozen=True)
class _Drawn:
    """Slots ``C`` and ``S`` and their features ``[n, d]``."""

    C: Tensor
    S: Tensor
    f_C: Tensor
    f_S: Tensor


def _mean(s: Tensor) -> Tensor:
    """Mean over the evaluation points; 0 where there are none."""
    return s.sum(0) / max(1, len(s))
