"""A review is learned by each method's own rule, without harm, and leaves nothing that a restart would put right."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from everlearn.data import class_incremental, load, open_source
from everlearn.learners import METHODS
from everlearn.learners.window import FAR, NOBODY
from everlearn.models import Model
from everlearn.runs.review_step import forget, learn_review
from everlearn.runs.reviews import REVIEW_IDS

SETTINGS = {
    "joint": {"memory": 500, "epochs": 3},
    "offline": {"memory": 500, "epochs": 3},
    "gdumb": {"epochs": 5},
    "scr": {"replay": 30},
    "random_features": {"width": 100},
}
FROZEN = {"ncm", "slda", "random_features"}
TRAINED_ANEW = {"joint", "offline", "gdumb"}


@cache
def digits():
    """Two tasks' batches, and held-out samples of their classes."""
    source = open_source("builtin:digits")
    batches = [b for b in class_incremental(source, 5).batches(10) if b.task < 2][:-1]
    batches = batches[:20] + batches[-20:]
    inputs, labels, _ = load(source, np.flatnonzero(source.test))
    kept = torch.isin(labels, torch.cat([b.labels for b in batches]))
    return batches, inputs[kept], labels[kept]


def build(name, **options):
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1),
        nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    model = Model(backbone, 64)
    settings = {"memory": 60, "precision": "float32", **SETTINGS.get(name, {}), **options}
    return METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.05), **settings)


def learned(name, steps=40, **options):
    learner = build(name, **options)
    for batch in digits()[0][:steps]:
        learner.observe(batch)
    return learner


def right(learner):
    _, inputs, labels = digits()
    return learner.predict(inputs).labels == labels


def restored(learner, name, **options):
    again = build(name, **options)
    again.load_state_dict({key: tensor.clone() for key, tensor in learner.state_dict().items()})
    return again


def state(learner):
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


def assert_same(one, other):
    """Both predict the same, and go on to the same bits."""
    batches, inputs, _ = digits()
    assert torch.equal(one.predict(inputs).probabilities, other.predict(inputs).probabilities)
    for learner in (one, other):
        learner.observe(batches[-1])
    a, b = state(one), state(other)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in METHODS]
    + [
        *(
            (name, {option: value})
            for name in ("er", "aser", "der")
            for option, value in (("average", 0.1), ("mkd", 2))
        ),
        *((name, {"classifier": "ncm"}) for name in ("er", "aser", "der")),
        ("er", {"loss": "separated"}),
        ("er", {"rrr": 1.0, "region": 1.0, "views": 2, "augment": "flip"}),
        ("slda", {"inputs": "raw"}),
    ],
)
def test_a_correction_is_learned_without_harm(name, options):
    _, inputs, labels = digits()
    learner = learned(name, **options)
    hit = right(learner)
    wrong = (~hit).nonzero().flatten().tolist()
    number = wrong[len(wrong) // 2] if wrong else 0
    picture, code = inputs[number], int(labels[number])
    backbone = {key: tensor.clone() for key, tensor in learner.model.backbone.state_dict().items()}
    rehearsed = []
    rule = learner.rehearse
    learner.rehearse = lambda x, y: (rehearsed.append(1), rule(x, y))
    learn_review(learner, picture, code, REVIEW_IDS + 1, correction=True)
    assert len(rehearsed) <= learner.rehearsals
    after = right(learner)
    assert after.float().mean() > hit.float().mean() - 0.04
    if name not in TRAINED_ANEW:
        x, y = picture[None], learner.classes.indices(torch.tensor([code]))
        assert learner.holds(x, y) or len(rehearsed) == learner.rehearsals
    if name in FROZEN:
        assert all(torch.equal(backbone[key], tensor) for key, tensor in learner.model.backbone.state_dict().items())
    assert_same(learner, restored(learner, name, **options))


def test_nearest_means_move_as_vector_quantisation_has_it():
    learner = learned("ncm")
    inputs = digits()[1]
    before = learner.predict(inputs)
    x, code = inputs[:1], next(c for c in learner.classes.codes if c != int(before.labels[0]))
    y, wins = learner.classes.indices(torch.tensor([code, int(before.labels[0])])).split(1)
    sums = learner.sums["sum"].clone()
    learner.rehearse(x, y)
    moved = (learner.sums["sum"] - sums).float()
    f = nn.functional.normalize(learner.features(x))[0]
    torch.testing.assert_close(moved[int(y)], 0.02 * sums[int(y)].norm().float() * f)
    torch.testing.assert_close(moved[int(wins)], -0.02 * sums[int(wins)].norm().float() * f)
    assert int(moved.any(1).sum()) == 2
    assert learner.predict(x).probabilities[0, int(y)] > before.probabilities[0, int(y)]


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_a_correction_is_felt_among_a_hundred_thousand(name):
    _, inputs, labels = digits()
    learner = learned(name)
    learner.sums = {key: sums if key == "mean" else 1000 * sums for key, sums in learner.sums.items()}
    learner.samples_seen *= 1000
    learner.forget_derived()
    state, hit = learner.state_dict(), right(learner)
    wrong = (~hit).nonzero().flatten().tolist()[:5]
    assert len(wrong) > 1
    for number in wrong:
        learner.load_state_dict(state)
        learn_review(learner, inputs[number], int(labels[number]), REVIEW_IDS + 1, correction=True)
        after = right(learner)
        assert after[number] and after.float().mean() > hit.float().mean() - 0.04


def force(learner, picture, code=0):
    """A confirmation that the method's own policy lets go; gives its slot."""
    learner.memory.offered = 10**9  # a reservoir of so many keeps no new one
    learn_review(learner, picture, code, REVIEW_IDS + 7, correction=False)
    (slot,) = (learner.memory.ids == REVIEW_IDS + 7).nonzero().flatten().tolist()
    return slot


def test_der_keeps_the_logits_of_a_review_that_was_let_in_by_force():
    learner = learned("der")
    picture = digits()[1][0]
    slot = force(learner, picture)
    with learner.evaluating():
        z = learner.model.head(learner.encode(picture[None]))[0]
    assert torch.equal(learner.z[slot], z) and learner.known[slot] == len(z)
    learner.memory.offered = 10**9
    learner.observe(digits()[0][-1])  # it is not taken for one of the next step's own
    assert torch.equal(learner.z[slot], z)


def test_gss_scores_a_review_that_was_let_in_by_force_beside_others():
    learner = learned("gss", strength=60)
    learner._select = lambda *_: None
    slot = force(learner, digits()[1][0])
    memory = learner.memory
    cosine = learner.gradient_cosines(memory.inputs[:60], memory.targets[:60])[slot]
    cosine[slot] = -1
    torch.testing.assert_close(learner.score[slot], 1 + cosine.max())


def test_aser_forgets_what_it_drew_of_a_slot_that_was_taken_by_force():
    learner = learned("aser", candidates=30, shapley_update=False, replay=2)
    window = learner._window
    held = window.classes != NOBODY
    taken = torch.stack([window.slots[part][held[part]][0] for part in (0, 2)])  # of a candidate's and one of S
    learner.renew(taken)
    gone = torch.isin(window.slots, taken) & held
    assert gone.sum() == 2 and (window.features[gone] == FAR).all()
    assert torch.equal(window.classes != NOBODY, held & ~gone)


def test_reasons_keep_no_map_of_the_sample_whose_place_a_review_took():
    learner = learned("er", rrr=1.0, region=1.0)
    learner.reasons.regions[:] = 7
    learner.reasons.maps[:] = -1
    slot = force(learner, digits()[1][0])
    assert (learner.reasons.regions[slot] == 255).all()
    assert learner.reasons.known[slot] and (learner.reasons.maps[slot] >= 0).all()  # its own, taken at once


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("der", {}),
        ("gss", {}),
        ("aser", {"candidates": 30}),
        ("gdumb", {}),
        ("icarl", {}),
        ("er", {"rrr": 1.0, "region": 1.0}),
        ("er", {"average": 0.1}),
        ("er", {"classifier": "ncm"}),
    ],
)
def test_what_is_kept_by_slot_moves_with_the_samples_that_stay(name, options):
    learner = learned(name, **options)
    before = learner.predict(digits()[1]).probabilities
    memory, rules = learner.memory, [key for key in state(learner) if key.split(".")[0] == "reasons"]
    rules += [f"rule.{key}" for key in learner.slotwise]
    ids, rows = memory.ids[: memory.size].tolist(), {key: state(learner)[key] for key in rules}
    assert forget(learner, [*ids[3:40:3], -5]) == 13
    left = [i for i in range(len(ids)) if i not in range(3, 40, 3)]
    assert memory.ids[: memory.size].tolist() == [ids[i] for i in left] and memory.size == len(left)
    for key in rules:
        assert torch.equal(state(learner)[key], rows[key][left]), key
    if options.get("classifier") or options.get("average") or name == "gdumb":  # these predict by what is remembered
        assert not torch.equal(learner.predict(digits()[1]).probabilities, before)
    if name == "aser":
        assert learner._window is None
    assert_same(learner, restored(learner, name, **options))


@pytest.mark.parametrize("name", ["er", "gdumb", "gss"])
def test_all_of_memory_can_be_forgotten(name):
    learner = learned(name)
    assert forget(learner, learner.memory.ids[: learner.memory.size].tolist()) == 60
    assert learner.memory.size == 0
    learner.observe(digits()[0][-1])
    assert learner.memory.size == 10
