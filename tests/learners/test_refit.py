"""Methods that gather first and train from the beginning when it is wanted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracle import after_step, assert_weights, batch_of, learner_of, logits, weights
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.learners import GDumb, Joint, Offline


@given(runs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 25)), min_size=1, max_size=6), b=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_gdumbs_memory_is_as_balanced_as_the_stream_allows(runs, b):
    learner = learner_of(GDumb, memory=12)
    labels = [label for label, n in runs for _ in range(n)]
    for start in range(0, len(labels), b):
        learner.observe(batch_of(labels[start : start + b], seed=start, first=start))
    counts, classes = learner.memory.counts.tolist(), len(set(labels))
    assert sum(counts) == learner.memory.size <= 12
    came = [labels.count(code) for code in learner.classes.codes]
    for c in range(classes):
        assert counts[c] >= min(came[c], 12 // classes)  # nobody's share is taken


def test_training_begins_at_the_first_weights_whenever_one_asks():
    asked, silent = learner_of(GDumb, epochs=2, memory=20), learner_of(GDumb, epochs=2, memory=20)
    for i in range(3):
        batch = batch_of([0, 1, 2, i], seed=i, first=4 * i)
        asked.observe(batch)
        silent.observe(batch)
        asked.predict(batch.inputs)
    silent.end_task()
    assert_weights(asked, dict(silent.model.named_parameters()), atol=0)
    rate = silent.optimizer.param_groups[0]["lr"]
    assert rate == 0.05  # the schedule is over


def test_joint_is_one_pass_over_everything():
    learner = learner_of(Joint, batch=100)
    batches = [batch_of([0, 1, 2], seed=s, first=3 * s) for s in range(3)]
    for batch in batches:
        learner.observe(batch)
    w = weights(learner)
    learner.end_task()
    x, y = torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches])
    assert_weights(learner, after_step(F.cross_entropy(logits(w, x), y), w))


def test_offline_learns_by_heart():
    learner = learner_of(Offline, epochs=300, batch=4)
    batch = batch_of([0, 1, 2, 3] * 2)
    learner.observe(batch)
    assert learner.predict(batch.inputs).labels.tolist() == batch.labels.tolist()


def test_asking_within_inference_mode_trains_as_well():
    learner = learner_of(GDumb, epochs=1)
    batch = batch_of([0, 1])
    learner.observe(batch)
    with torch.inference_mode():
        probabilities = learner.predict(batch.inputs).probabilities
    learner.observe(batch_of([1, 2], seed=1, first=2))
    assert probabilities.shape == (2, 2) and learner.predict(batch.inputs).probabilities.shape == (2, 3)


def test_a_full_memory_is_refused_before_anything_changes():
    learner = learner_of(Joint, memory=4)
    learner.observe(batch_of([0, 1, 0]))
    with pytest.raises(SettingError, match="Joint keeps every sample and its memory of 4 is full; set memory to"):
        learner.observe(batch_of([1, 2], first=3))
    assert (learner.memory.size, learner.samples_seen, learner.classes.codes) == (3, 3, [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0 and batch 16; expected 1 or more for both"),
        ({"schedule": "step"}, "schedule is 'step'; expected 'constant' or 'cosine'"),
        ({"clip": 0.0}, "clip is 0.0; expected a bound above 0"),
        ({"mkd": 1.0}, "GDumb does not combine with mkd; it allows augment"),
    ],
)
def test_bad_settings_get_one_line(settings, message):
    with pytest.raises(SettingError, match=message):
        learner_of(GDumb, **settings)
