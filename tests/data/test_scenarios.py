"""Shifted domains, long tails and wrong labels."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data import by_site, by_task, class_incremental, open_source
from everlearn.data.scenarios import SHIFTS, domains, long_tailed, noisy_labels, shift
from everlearn.errors import SettingError

DIGITS = open_source("builtin:digits")


def test_domains_are_even_in_class_and_test_part():
    shifted = domains(DIGITS)
    for c in range(10):
        for test in (False, True):
            counts = np.bincount(shifted.tasks[(DIGITS.labels == c) & (DIGITS.test == test)], minlength=5)
            assert counts.max() - counts.min() <= 1
    stream = by_task(shifted)
    assert sum(map(len, stream.tasks)) == (~DIGITS.test).sum()
    assert sum(map(len, stream.tests())) == DIGITS.test.sum()
    assert [shifted.sites[task[0]] for task in stream.tasks] == ["none", "noise", "blur", "occlusion", "brightness"]
    assert len(by_site(shifted).tasks) == 5


def test_a_domain_shifts_its_samples_the_same_way_every_time():
    shifted = domains(DIGITS, ["none", "noise:2"])
    again = pickle.loads(pickle.dumps(shifted.read))
    for i in range(30):
        assert (shifted.read(i) == again(i)).all()
        assert (shifted.read(i) == DIGITS.read(i)).all() == (shifted.sites[i] == "none")
    i, j = np.flatnonzero(shifted.tasks == 1)[:2]
    noise = [shifted.read(k).astype(int) - DIGITS.read(k) for k in (i, j)]
    assert (noise[0] != noise[1]).any()


@pytest.mark.parametrize("kind", [kind for kind in SHIFTS if kind != "none"])
def test_severity_takes_away_more_and_more(kind):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (40, 3, 32, 32)).astype(np.uint8)
    changes = []
    for severity in range(1, 6):
        shifted = [shift(p, kind, severity, np.random.default_rng(i)) for i, p in enumerate(pictures)]
        assert all(s.shape == (3, 32, 32) and s.dtype == np.uint8 for s in shifted)
        changes.append(np.mean([np.abs(s.astype(int) - p) for s, p in zip(shifted, pictures)]))
    assert (np.diff(changes) > 0).all()


def test_shifts_are_what_they_say():
    rng, grey = np.random.default_rng(0), np.full((1, 40, 40), 100, np.uint8)
    noise = shift(np.full((1, 200, 200), 128, np.uint8), "noise", 1, rng).astype(float)
    assert abs(noise.std() - 0.04 * 255) < 0.3 and abs(noise.mean() - 128) < 0.3
    assert (shift(grey, "occlusion", 3, rng) == 128).mean() == pytest.approx(0.2, abs=0.02)
    assert (shift(grey, "brightness", 2, rng) == 151).all()
    assert (shift(np.full((1, 8, 8), 250, np.uint8), "brightness", 5, rng) == 255).all()
    edge = np.zeros((1, 40, 40), np.uint8)
    edge[:, :, 20:] = 200
    blurred = shift(edge, "blur", 3, rng)[0, 20].astype(int)
    assert (np.diff(blurred) >= 0).all() and np.diff(blurred).max() < 60


@given(ratio=st.floats(1, 300))
@settings(max_examples=20, deadline=None)
def test_the_tail_falls_by_the_ratio(ratio):
    tail = long_tailed(DIGITS, ratio)
    counts, had = (np.bincount(s.labels[~s.test], minlength=10) for s in (tail, DIGITS))
    for c in range(10):
        assert counts[c] == min(had[c], max(1, round(had.max() * ratio ** (-c / 9))))
    assert (np.bincount(tail.labels[tail.test]) == np.bincount(DIGITS.labels[DIGITS.test])).all()


def test_a_tail_reads_the_samples_it_kept():
    tail = long_tailed(DIGITS, 20)
    for i in (0, 5, len(tail) - 1):
        original = DIGITS.names.index(tail.names[i])
        assert (tail.read(i) == DIGITS.read(original)).all()
        assert tail.labels[i] == DIGITS.labels[original] and tail.test[i] == DIGITS.test[original]
    tasks = long_tailed(domains(DIGITS, ["none", "blur"]), 5)
    assert len(tasks.tasks) == len(tasks) == len(tasks.sites)


@pytest.mark.parametrize("kind", ["symmetric", "next"])
def test_wrong_labels_are_as_many_as_asked_for(kind):
    noisy = noisy_labels(DIGITS, 0.3, kind)
    wrong = noisy.labels != DIGITS.labels
    assert wrong.sum() == round(0.3 * (~DIGITS.test).sum()) and not wrong[DIGITS.test].any()
    steps = (noisy.labels - DIGITS.labels)[wrong] % 10
    assert set(steps) == ({1} if kind == "next" else set(range(1, 10)))
    assert (noisy_labels(DIGITS, 0.3, kind, seed=1).labels != noisy.labels).any()
    assert len(class_incremental(noisy, 5)) == (~DIGITS.test).sum()


def test_bad_settings_get_one_line():
    with pytest.raises(
        SettingError, match="there is no shift 'fog'; expected none, noise, blur, occlusion, brightness"
    ):
        domains(DIGITS, ["fog"])
    with pytest.raises(SettingError, match="there is no shift 'noise:9'"):
        domains(DIGITS, ["noise:9"])
    with pytest.raises(SettingError, match="shifts are blur, blur; expected one or more, each once"):
        domains(DIGITS, ["blur", "blur"])
    with pytest.raises(SettingError, match=r"ratio is 0\.5; expected 1 or more"):
        long_tailed(DIGITS, 0.5)
    with pytest.raises(SettingError, match=r"share is 1\.5; expected 0 to 1"):
        noisy_labels(DIGITS, 1.5)
    with pytest.raises(SettingError, match="kind is 'any'; expected 'symmetric' or 'next'"):
        noisy_labels(DIGITS, kind="any")
