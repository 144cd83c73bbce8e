"""ASER against its definition, with Shapley values by brute force over coalitions."""

import math
from itertools import combinations
from math import comb

import pytest
import torch
from torch import nn

from everlearn.data import Batch
from everlearn.errors import SettingError
from everlearn.learners import ASER
from everlearn.learners.window import REST
from everlearn.models import Model

K = 2


class Pixels(nn.Module):
    """Features are the pixels themselves, so that nothing depends on weights."""

    feature_dim = 64

    def forward(self, x):
        return x.flatten(1)


def value(matches, members):
    return sum(matches[i] for i in sorted(members)[:K]) / K


def shapley(f_eval, y_eval, features, labels):
    """``[E, N]`` values by definition: v(S) counts matches among the K of S that are nearest."""
    rows = []
    for f, y in zip(f_eval, y_eval):
        order = (features - f).square().sum(1).argsort(stable=True).tolist()
        matches = [float(labels[i] == y) for i in order]
        n, row = len(order), [0.0] * len(order)
        for rank, i in enumerate(order):
            others = [r for r in range(n) if r != rank]
            for size in range(n):
                for group in combinations(others, size):
                    gain = value(matches, (*group, rank)) - value(matches, group)
                    row[i] += gain / (n * comb(n - 1, size))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def batch(seed, n=4, classes=3, start=0):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=rng)
    pixels = torch.randint(0, 80, (n, 1, 8, 8), generator=rng) + 50 * labels[:, None, None, None]
    return Batch(pixels.to(torch.uint8), labels, torch.arange(start, start + n))


def filled(**settings):
    """A learner whose memory of 12 has just filled."""
    learner = ASER(
        Model(Pixels()), memory=12, replay=3, k=K, candidates=12, per_class=2, precision="float32", **settings
    )
    for i in range(3):
        learner.observe(batch(i, start=4 * i))
    assert learner.memory.full
    return learner


def clone(generator):
    return torch.Generator().set_state(generator.get_state())


def drawn_next(learner, balanced):
    """C and S of the next step, the generator left as it was: slots that share none."""
    if learner.scoring == "cached":
        learner._look_around(batch(8).inputs)
        drawn, window = learner._drawn(), learner._window
        C, S = window.slots[:2].flatten(), window.slots[2].flatten()
    else:
        state = learner.generator.get_state()
        slots, _ = learner.memory.draw_balanced(4 if balanced else 2, learner.generator)
        learner.generator.set_state(state)
        drawn, S = learner._draw(balanced), slots[:, :2].flatten()
        learner.generator.set_state(state)
        C = drawn.C
    C, S = C[drawn.y_C >= 0], S[drawn.w_S > 0]
    assert not set(C.tolist()) & set(S.tolist())
    assert len(set(C.tolist())) == len(C) and len(set(S.tolist())) == len(S)
    return C, S


@pytest.mark.parametrize("scoring", ["cached", "exact"])
@pytest.mark.parametrize("kind", ["asvm", "asv", "neg"])
def test_retrieval(kind, scoring):
    learner = filled(value=kind, scoring=scoring, mix=math.inf)
    coming = batch(9)
    y, f_B = learner.classes.indices(coming.labels), learner.features(coming.inputs)
    C, S = drawn_next(learner, balanced=True)
    features, targets = learner.features(learner.memory.inputs), learner.memory.targets
    shares = torch.bincount(targets[S], minlength=3)
    if scoring == "exact":
        assert shares.tolist() == learner.memory.counts.clamp(max=2).tolist()
    assert shares.max() - shares.min() <= 1
    s_S = shapley(features[S], targets[S], features[C], targets[C])
    s_B = shapley(f_B, y, features[C], targets[C])
    worth = {"asvm": s_S.mean(0) - s_B.mean(0), "asv": s_S.amax(0) - s_B.amin(0), "neg": -s_B.sum(0)}[kind]
    best = learner._retrieve(f_B, y).tolist()
    by_slot = dict(zip(C.tolist(), worth.tolist()))
    assert len(best) == 3
    assert set(best) <= set(by_slot)
    least = min(by_slot[slot] for slot in best)
    assert all(by_slot[slot] <= least + 1e-6 for slot in set(by_slot) - set(best))


def test_mix_bounds_the_share_of_a_class():
    learner = filled(mix=1.0)
    worth, y_C = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.0]), torch.tensor([0, 0, 0, 1, 2])
    best = learner._mixed(worth, y_C).topk(3).indices
    assert sorted(y_C[best].tolist()) == [0, 1, 2]
    assert best[0] == 0
    alone = learner._mixed(worth[:3], y_C[:3]).topk(3).indices
    assert alone.tolist() == [0, 1, 2]  # nothing else to take


@pytest.mark.parametrize("scoring", ["cached", "exact"])
@pytest.mark.parametrize("seed", range(6))
def test_update_keeps_the_most_valuable(seed, scoring):
    learner = filled(scoring=scoring)
    coming = batch(20 + seed, start=100)
    x, y = learner.receive(coming)
    f_B = learner.features(x)
    C, S = drawn_next(learner, balanced=False)
    rng = clone(learner.generator)
    if scoring == "exact":
        learner.memory.draw_balanced(2, rng), torch.rand(12, generator=rng)
    threshold = torch.rand((), generator=rng) / 3
    rare = threshold > learner.memory.counts[y] / 12
    features, t = learner.features(learner.memory.inputs), learner.memory.targets.clone()
    f_eval, y_eval = torch.cat([features[S], f_B[rare]]), torch.cat([t[S], y[rare]])
    s = shapley(f_eval, y_eval, torch.cat([features[C], f_B]), torch.cat([t[C], y])).sum(0)
    ids = torch.cat([learner.memory.ids[C], coming.ids])
    untouched = [i for i in range(12) if i not in C.tolist()]
    before = learner.memory.ids[untouched].tolist()
    learner._update(x, y, coming.ids, f_B)
    kept = set(learner.memory.ids[C].tolist())
    assert len(kept) == len(C) == {"cached": 4, "exact": 6}[scoring]
    values = dict(zip(ids.tolist(), s.tolist()))
    least = min(values[i] for i in kept)
    assert all(values[i] <= least + 1e-6 for i in set(values) - kept)
    assert learner.memory.ids[untouched].tolist() == before
    label = dict(zip(ids.tolist(), torch.cat([t[C], y]).tolist()))
    assert [label[i] for i in learner.memory.ids[C].tolist()] == learner.memory.targets[C].tolist()


@pytest.mark.parametrize(("scoring", "encodings"), [("cached", [4 + 2]), ("exact", [4, 12, 4, 12])])
def test_what_a_step_encodes(scoring, encodings, monkeypatch):
    learner = filled(scoring=scoring)
    learner.observe(batch(30, start=200))
    encode, sizes = learner.encode, []
    monkeypatch.setattr(learner, "encode", lambda x: sizes.append(len(x)) or encode(x))
    learner.observe(batch(31, start=204))
    assert sizes == encodings


@pytest.mark.parametrize("settings", [{}, {"shapley_update": False}, {"shapley_retrieval": False}])
def test_cached_features_are_those_of_the_slots(settings):
    learner = ASER(Model(Pixels()), memory=60, replay=3, candidates=24, refresh=3, precision="float32", **settings)
    for i in range(45):
        learner.observe(batch(i, start=4 * i))
        if learner._window is None:
            continue
        drawn, features = learner._drawn(), learner.features(learner.memory.inputs)
        assert len(drawn.C) == 24 and len(drawn.y_S) == 12
        still = (drawn.y_C >= 0) & (learner.memory.steps[drawn.C] == drawn.came)
        assert settings or torch.equal(still, drawn.y_C >= 0)
        assert i < 18 or still.sum() >= 12
        torch.testing.assert_close(drawn.f_C[still], features[drawn.C[still]])
        assert drawn.y_C[still].tolist() == learner.memory.targets[drawn.C[still]].tolist()


def test_a_retrieved_candidate_rests():
    learner = ASER(Model(Pixels()), memory=60, replay=3, candidates=24, refresh=3, precision="float32")
    for i in range(20):
        learner.observe(batch(i, start=4 * i))
    seen, learner.step = [], learner.step + REST  # what was written last has rested
    coming = batch(50)
    y, f_B = learner.classes.indices(coming.labels), learner.features(coming.inputs)
    for _ in range(4):  # as long as each of 24 candidates rests
        seen += learner._retrieve(f_B, y).tolist()
        learner.step += 1
    assert len(seen) == len(set(seen)) == 12


def test_where_candidates_run_out_others_are_retrieved():
    learner = filled()
    learner.observe(batch(30, start=200))
    learner._window.forget(torch.arange(12))
    coming = batch(31)
    slots = learner._retrieve(learner.features(coming.inputs), learner.classes.indices(coming.labels))
    assert len(set(slots.tolist())) == 3 and (learner.memory.targets[slots] >= 0).all()


def test_halves_can_be_switched_off():
    learner = filled(shapley_update=False)
    learner.observe(batch(40, start=300))
    assert learner.memory.offered == 16  # the reservoir goes on counting
    learner = filled(shapley_retrieval=False)
    learner.observe(batch(41, start=300))
    assert learner.memory.offered == 12  # the reservoir has ended, the Shapley values decide


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "best"}, "value is 'best'; expected 'asv', 'asvm' or 'neg'"),
        ({"scoring": "cheap"}, "scoring is 'cheap'; expected 'cached' or 'exact'"),
        ({"k": 0}, "expected 1 or more of each"),
        ({"mix": 0.5}, "mix is 0.5; expected 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        ASER(Model(Pixels()), **settings)


def test_exact_scoring_draws_as_many_candidates_as_it_evaluates_on():
    """The paper's C and S: 9 of each of 10 classes."""
    learner = ASER(Model(Pixels()), memory=400, candidates=90, scoring="exact", mix=math.inf)
    for i in range(20):
        pictures = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        learner.observe(Batch(pictures, torch.arange(20) % 10, 20 * i + torch.arange(20)))
    drawn = learner._draw(balanced=True)
    assert len(drawn.y_S) == len(drawn.C) == 90
    assert torch.bincount(drawn.y_C).tolist() == torch.bincount(drawn.y_S).tolist() == [9] * 10
