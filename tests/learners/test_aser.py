"""ASER against its definition, with Shapley values by brute force over coalitions."""

from itertools import combinations
from math import comb

import pytest
import torch
from torch import nn

from everlearn.data import Batch
from everlearn.errors import SettingError
from everlearn.learners import ASER
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
        Model(Pixels()), memory=12, replay=3, k=K, candidates=5, per_class=2, precision="float32", **settings
    )
    for i in range(3):
        learner.observe(batch(i, start=4 * i))
    assert learner.memory.full
    return learner


def clone(generator):
    return torch.Generator().set_state(generator.get_state())


@pytest.mark.parametrize("kind", ["asvm", "asv", "neg"])
def test_retrieval(kind):
    learner = filled(value=kind)
    coming = batch(9)
    y = learner.classes.indices(coming.labels)
    slots, valid = learner.memory.draw_balanced(4, clone(learner.generator))
    C, S = slots[:, :2][valid[:, :2]], slots[:, 2:][valid[:, 2:]]
    features, targets = learner.features(learner.memory.inputs), learner.memory.targets
    s_S = shapley(features[S], targets[S], features[C], targets[C])
    s_B = shapley(learner.features(coming.inputs), y, features[C], targets[C])
    worth = {"asvm": s_S.mean(0) - s_B.mean(0), "asv": s_S.amax(0) - s_B.amin(0), "neg": -s_B.sum(0)}[kind]
    taken = learner._retrieve(coming.inputs, y).tolist()
    by_slot = dict(zip(C.tolist(), worth.tolist()))
    assert len(taken) == 3
    assert set(taken) <= set(by_slot)
    least = min(by_slot[slot] for slot in taken)
    assert all(by_slot[slot] <= least + 1e-6 for slot in set(by_slot) - set(taken))


@pytest.mark.parametrize("seed", range(6))
def test_update_keeps_the_most_valuable(seed):
    learner = filled()
    coming = batch(20 + seed, start=100)
    x, y = learner.receive(coming)
    rng = clone(learner.generator)
    slots, valid = learner.memory.draw_balanced(2, rng)
    S = slots[valid]
    rest = torch.tensor([i for i in range(12) if i not in S.tolist()])
    C = rest[torch.randperm(len(rest), generator=rng)[:5]]
    rare = torch.rand((), generator=rng) / 3 > learner.memory.counts[y] / 12
    features, t = learner.features(learner.memory.inputs), learner.memory.targets.clone()
    f_B = learner.features(x)
    f_eval, y_eval = torch.cat([features[S], f_B[rare]]), torch.cat([t[S], y[rare]])
    s = shapley(f_eval, y_eval, torch.cat([features[C], f_B]), torch.cat([t[C], y])).sum(0)
    ids = torch.cat([learner.memory.ids[C], coming.ids])
    untouched = [i for i in range(12) if i not in C.tolist()]
    before = learner.memory.ids[untouched].tolist()
    learner._update(x, y, coming.ids)
    kept = set(learner.memory.ids[C].tolist())
    assert len(kept) == 5
    values = dict(zip(ids.tolist(), s.tolist()))
    least = min(values[i] for i in kept)
    assert all(values[i] <= least + 1e-6 for i in set(values) - kept)
    assert learner.memory.ids[untouched].tolist() == before
    label = dict(zip(ids.tolist(), torch.cat([t[C], y]).tolist()))
    assert [label[i] for i in learner.memory.ids[C].tolist()] == learner.memory.targets[C].tolist()


def test_relayed_features_are_those_of_the_slots():
    learner = filled()
    for i in range(5):
        learner.observe(batch(30 + i, start=200 + 4 * i))
        drawn, features = learner._relayed, learner.features(learner.memory.inputs)
        torch.testing.assert_close(drawn.f_C, features[drawn.C])
        torch.testing.assert_close(drawn.f_S, features[drawn.S])


def test_halves_can_be_switched_off():
    learner = filled(shapley_update=False)
    learner.observe(batch(40, start=300))
    assert learner._relayed is None
    assert learner.memory.offered == 16  # the reservoir goes on counting
    learner = filled(shapley_retrieval=False)
    learner.observe(batch(41, start=300))
    assert learner.memory.offered == 12  # the reservoir has ended, the Shapley values decide


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "best"}, "value is 'best'; expected 'asv', 'asvm' or 'neg'"),
        ({"scoring": "cheap"}, "scoring is 'cheap'; expected 'relay' or 'exact'"),
        ({"k": 0}, "expected 1 or more of each"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        ASER(Model(Pixels()), **settings)
