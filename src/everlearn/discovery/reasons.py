"""Why a candidate is proposed: the parts its expected value rests on, the measured ones for and against, and the check.

Parts are found by masking, in SISE's manner (Sattarzadeh et al. 2021): what the surrogate loses when a part is masked
is the part's score; scores of small and of large masks are summed over what they cover, and fused from fine to coarse.
Measured candidates are valued by KNN-Shapley for regression, near and far as the surrogate's kernel has it. Both are
checked: taking out what is named must change the expected value more than taking out as much at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from everlearn.discovery.ensemble import Ensemble
from everlearn.discovery.features import Array
from everlearn.discovery.masks import Mask, Masker, MoleculeMasker, Part, masker_of
from everlearn.discovery.proposal import Proposal
from everlearn.discovery.reason import Case, Check, Effect, Reason
from everlearn.discovery.search import Search
from everlearn.discovery.words import words
from everlearn.explainers.otsu import otsu_threshold
from everlearn.metrics.verdict import verdict
from everlearn.valuation.knn_shapley_regression import knn_shapley_regression

_RANDOM = 8  # random masks, and random sets of measured candidates, to compare with
_DRAWS = 4  # random masks as large as a part, that its effect is weighed against when the part to name is chosen
_NEIGHBOURS = 3  # of the valuation
_NAMED = 3  # measured candidates named for, and against
_NEAREST = 300  # measured candidates that are valued


def explain(search: Search, proposals: Sequence[Proposal], k: int = 0) -> list[Reason]:
    """Reasons for each proposal, for target k; deterministic in the campaign's seed."""
    if not search.learnable(k):
        return [
            Reason(words="nothing is learned yet: chosen to be unlike what is measured, and unlike each other")
            for _ in proposals
        ]
    masker = masker_of(search.featuriser, search.pool.candidates, search.config.seed)
    without = _Without(search, proposals, k)
    reasons = []
    for each in proposals:
        rng = np.random.default_rng([search.config.seed, each.row])
        effects = _effects(search, masker, each, k)
        cases_for, cases_against, cases_check = _cases(search, each, k, without)
        reason = Reason(
            effects, cases_for, cases_against, _parts_check(search, masker, each, effects, k, rng), cases_check,
            _weights(search, masker, each, effects, k) if isinstance(masker, MoleculeMasker) else [],
        )  # fmt: skip
        reasons.append(replace(reason, words=words(search, each, reason, k)))
    return reasons


def _without(search: Search, masker: Masker, proposal: Proposal, masks: Sequence[Mask], k: int) -> Array:
    """Expected z of the candidate without each mask."""
    if not masks:
        return np.zeros(0)
    features = masker.features(search.pool.candidates[proposal.row], masks)
    z, _ = search.surrogate(k).predict(np.arange(len(features)), features)
    return z.reshape(len(masks), masker.draws).mean(1)


def _expected(search: Search, proposal: Proposal, k: int) -> float:
    return float(search.surrogate(k).predict([proposal.row])[0][0])


def _effects(search: Search, masker: Masker, proposal: Proposal, k: int) -> list[Effect]:
    parts = masker.parts(search.pool.candidates[proposal.row])
    if not parts:
        return []
    z = _without(search, masker, proposal, [part.mask for part in parts], k)
    whole = _expected(search, proposal, k)
    values = search.value(k, z)
    random = _at_random(search, masker, proposal, parts, k)
    found = [Effect(part, whole - float(zi), float(v), r) for part, zi, v, r in zip(parts, z, values, random)]
    # large parts change much whatever they are: what counts is how much more than as much at random
    return sorted(found, key=lambda each: each.random - each.effect)


def _at_random(search: Search, masker: Masker, proposal: Proposal, parts: list[Part], k: int) -> list[float]:
    """Mean change without as much as each part holds, at random; other draws than those that check the named part."""
    candidate = search.pool.candidates[proposal.row]
    rng = np.random.default_rng([search.config.seed, proposal.row, 1])
    alike = {masker.size(part.mask): part.mask for part in parts}
    drawn = {size: masker.random(candidate, mask, _DRAWS, rng) for size, mask in alike.items()}
    z = _without(search, masker, proposal, [mask for masks in drawn.values() for mask in masks], k)
    changes = iter(np.abs(_expected(search, proposal, k) - z))
    means = {size: float(np.mean([next(changes) for _ in masks])) for size, masks in drawn.items() if masks}
    return [means.get(masker.size(part.mask), 0.0) for part in parts]


def _parts_check(
    search: Search, masker: Masker, proposal: Proposal, effects: list[Effect], k: int, rng: np.random.Generator
) -> Check | None:
    if len(effects) < 2:
        return None
    named = effects[0]
    drawn = masker.random(search.pool.candidates[proposal.row], named.part.mask, _RANDOM, rng)
    masks = list(dict.fromkeys(tuple(sorted(mask)) for mask in drawn))  # the same mask twice is no second witness
    if len(masks) < 2:
        return None
    whole = _expected(search, proposal, k)
    changes = [float(abs(whole - z)) for z in _without(search, masker, proposal, masks, k)]
    return Check(abs(named.effect), tuple(changes), verdict(abs(named.effect), changes))


def _weights(search: Search, masker: MoleculeMasker, proposal: Proposal, effects: list[Effect], k: int) -> list[float]:
    """Atoms' weights: V of each scale is Σ score · mask / Σ mask, fused as E ← (E + V) · B(V) from fine to coarse."""
    candidate = search.pool.candidates[proposal.row]
    fine = masker.environments(candidate)
    whole = _expected(search, proposal, k)
    scores = whole - _without(search, masker, proposal, fine, k)
    scales = [(fine, scores), ([e.part.mask for e in effects], np.array([e.effect for e in effects]))]
    weights = np.zeros(len(fine))
    for step, (masks, psi) in enumerate(scales):
        V, cover = np.zeros(len(fine)), np.zeros(len(fine))
        for mask, score in zip(masks, psi):
            V[list(mask)] += score
            cover[list(mask)] += 1
        V = V / cover.clip(min=1)
        V = V / max(np.abs(V).max(initial=0.0), 1e-12)
        kept = np.abs(V) > float(otsu_threshold(torch.as_tensor(np.abs(V)))) if step else np.ones(len(V), dtype=bool)
        weights = (weights + V) * kept
    return [float(w) for w in weights / max(np.abs(weights).max(initial=0.0), 1e-12)]


def _cases(
    search: Search, proposal: Proposal, k: int, without: _Without
) -> tuple[list[Case], list[Case], Check | None]:
    rows, means, _ = search.values(k)
    surrogate, z = search.surrogate(k), search.z(k)
    near = surrogate.similarity([proposal.row], rows)[0]
    kept = np.argsort(-near, kind="stable")[:_NEAREST]
    values = _shapley(surrogate, proposal.row, np.asarray(rows)[kept], z[kept], _expected(search, proposal, k))
    order = np.argsort(-values, kind="stable")

    def case(i: int) -> Case:
        row = rows[int(kept[i])]
        candidate = search.pool.candidates[row]
        return Case(candidate.name, candidate.text, float(means[kept[i]]), float(values[i]), float(near[kept[i]]))

    best = [int(i) for i in order[:_NAMED] if values[i] > 0]
    worst = [int(i) for i in order[::-1][:_NAMED] if values[i] < 0]
    named = [int(kept[i]) for i in best]
    return [case(i) for i in best], [case(i) for i in worst], without.check(proposal, named)


def _shapley(surrogate: Ensemble, row: int, rows: Array, z: Array, wanted: float) -> Array:
    """Values by distances of the kernel: rows of its Cholesky factor are features with just these distances."""
    both = np.append(rows, row)
    K = torch.as_tensor(surrogate.similarity(both, both)) + 1e-6 * torch.eye(len(both), dtype=torch.float64)
    features = torch.linalg.cholesky(K)
    y, mean = torch.as_tensor(z), float(np.mean(z))
    return knn_shapley_regression(
        features[-1:], torch.tensor([wanted - mean], dtype=torch.float64), features[:-1], y - mean, _NEIGHBOURS
    )[0].numpy()


class _Without:
    """Expected z of the proposals, learned without some of what is measured; random choices serve all proposals."""

    def __init__(self, search: Search, proposals: Sequence[Proposal], k: int) -> None:
        self._search, self._k = search, k
        self._rows = [each.row for each in proposals]
        self._random: dict[int, Array] = {}

    def check(self, proposal: Proposal, named: list[int]) -> Check | None:
        """What leaving out the named places changes, beside as many at random."""
        measured = len(self._search.values(self._k)[0])
        if not named or measured < 2 * len(named) + 2:
            return None
        model = self._search.surrogate(self._k)
        if len(named) not in self._random:
            rng = np.random.default_rng([self._search.config.seed, len(named)])
            sets = [rng.choice(measured, len(named), replace=False) for _ in range(_RANDOM)]
            self._random[len(named)] = np.array([model.without(each, self._rows) for each in sets])
        whole = _expected(self._search, proposal, self._k)
        random = [float(abs(z - whole)) for z in self._random[len(named)][:, self._rows.index(proposal.row)]]
        found = abs(float(model.without(np.array(named), [proposal.row])[0]) - whole)
        return Check(found, tuple(random), verdict(found, random))
