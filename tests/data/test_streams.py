"""Streams: what comes in which order, batches, quarantine, going on, and workers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from everlearn.data import (
    Source,
    Stream,
    blurred,
    by_site,
    by_task,
    by_time,
    class_incremental,
    load,
    open_source,
    shuffled,
)
from everlearn.errors import DataError, SettingError


class Numbered:
    """Sample i is a picture full of i; the bad ones cannot be read."""

    def __init__(self, bad=()):
        self.bad = frozenset(bad)

    def __call__(self, i):
        if i in self.bad:
            raise DataError(f"sample {i} is broken")
        return np.full((1, 2, 2), i % 256, np.uint8)


class Dying(Numbered):
    """Takes its process down, as running out of memory does."""

    def __call__(self, i):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


def source_of(n=40, classes=4, bad=(), n_test=8, **more):
    labels = np.arange(n, dtype=np.int64) % classes
    test = np.arange(n) >= n - n_test
    names = [f"s{i}" for i in range(n)]
    class_names = tuple(f"c{c}" for c in range(classes))
    return Source("made", (1, 2, 2), class_names, labels, names, Numbered(bad), test, **more)


def ids(batches):
    return [i for batch in batches for i in batch.ids.tolist()]


def same(a, b):
    return (
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.ids, b.ids)
        and (a.task, a.end) == (b.task, b.end)
    )


def test_class_incremental_gives_classes_group_by_group():
    source = source_of()
    stream = class_incremental(source, tasks=2)
    assert [sorted(set(source.labels[task])) for task in stream.tasks] == [[0, 1], [2, 3]]
    assert [sorted(set(source.labels[test])) for test in stream.tests()] == [[0, 1], [2, 3]]
    assert sorted(np.concatenate(stream.tasks)) == list(range(32))
    assert sorted(np.concatenate(stream.tests())) == list(range(32, 40))
    assert len(stream) == 32


def test_orders_depend_on_the_seed_alone():
    source = source_of()
    for make in (class_incremental, blurred):
        a, b, c = (np.concatenate(make(source, tasks=4, order="seeded", seed=seed).tasks) for seed in (1, 1, 2))
        assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert np.array_equal(shuffled(source, 3).tasks[0], shuffled(source, 3).tasks[0])
    natural = class_incremental(source, tasks=4, seed=1)
    assert [int(source.labels[task][0]) for task in natural.tasks] == [0, 1, 2, 3]


def test_samples_within_a_task_are_shuffled():
    task = class_incremental(source_of(n=400, n_test=0), tasks=1).tasks[0]
    assert not np.array_equal(task, np.sort(task))


def test_by_time_runs_with_time_and_parts_nothing_of_one_time():
    times = np.array([5.0, 1, 1, 1, 3, 2, 4, 6, 7, 8, 0, 9, 1.5, 4.5, 100, -7])
    source = source_of(n=16, n_test=4, times=times)
    stream = by_time(source, tasks=3)
    learned = np.concatenate(stream.tasks)
    assert np.array_equal(times[learned], np.sort(times[:12]))
    bounds = [(times[task].min(), times[task].max()) for task in stream.tasks]
    assert all(high < low for (_, high), (low, _) in pairwise(bounds))
    for t, test in enumerate(stream.tests()):
        for i in test:
            assert t == 0 or times[i] >= bounds[t][0]
            assert t == 2 or times[i] < bounds[t + 1][0]
    assert sorted(np.concatenate(stream.tests())) == [12, 13, 14, 15]


def test_by_site_is_one_task_for_each():
    sites = np.array(["site10", "site2", "a", "a"] * 10)
    source = source_of(classes=5, sites=sites)
    stream = by_site(source)
    assert [set(sites[task]) for task in stream.tasks] == [{"a"}, {"site2"}, {"site10"}]
    assert [set(sites[test]) for test in stream.tests()] == [{"a"}, {"site2"}, {"site10"}]
    assert [set(sites[task]) for task in by_site(source, ["site10", "a"]).tasks] == [{"site10"}, {"a"}]
    with pytest.raises(SettingError, match="order has 'b'; expected each once of the sites a, site2, site10"):
        by_site(source, ["b"])
    with pytest.raises(SettingError, match="order has 'a'"):
        by_site(source, ["a", "a"])


def test_by_task_follows_the_numbers():
    tasks = np.array([7, 3] * 20)
    stream = by_task(source_of(tasks=tasks))
    assert [set(tasks[task]) for task in stream.tasks] == [{3}, {7}]
    assert [set(tasks[test]) for test in stream.tests()] == [{3}, {7}]


def test_blurred_without_blur_is_class_incremental():
    source = source_of()
    sharp, soft = class_incremental(source, 4), blurred(source, 4, blur=0)
    assert np.array_equal(np.concatenate(sharp.tasks), np.concatenate(soft.tasks))
    assert not soft.borders and next(soft.batches(10)).task is None


def test_blurred_mixes_as_its_formula_says():
    source = source_of(n=40000, classes=4, n_test=4)
    blur = 0.2
    stream = blurred(source, tasks=4, blur=blur)
    order = np.concatenate(stream.tasks)
    place = np.arange(len(order)) / (len(order) / 4)
    near = np.abs(place - (2 + 0.1)) < 0.02  # 0.1 of a task behind the second border
    share = np.isin(source.labels[order[near]], [0, 1]).mean()
    expected = 0.5 * (1 - torch.erf(torch.tensor(0.1 / blur / 2**0.5)).item())
    assert abs(share - expected) < 0.04
    assert [sorted(set(source.labels[test])) for test in stream.tests()] == [[0], [1], [2], [3]]


def test_shuffled_is_one_task_with_all_that_is_held_out():
    source = source_of()
    stream = shuffled(source)
    assert len(stream.tasks) == 1 and sorted(stream.tasks[0]) == list(range(32))
    assert stream.tests()[0].tolist() == list(range(32, 40))


def test_batches_keep_borders_and_the_last_partial_one():
    stream = class_incremental(source_of(), tasks=2)  # 16 samples each
    batches = list(stream.batches(10))
    assert [len(b) for b in batches] == [10, 6, 10, 6]
    assert [b.task for b in batches] == [0, 0, 1, 1]
    assert [b.end for b in batches] == [10, 16, 26, 32]
    assert [len(b) for b in replace(stream, borders=False).batches(10)] == [10, 10, 10, 2]
    assert ids(batches) == np.concatenate(stream.tasks).tolist()


def test_labels_and_ids_follow_codes_and_first_id():
    source = source_of()
    stream = replace(class_incremental(source, 2), codes=np.array([5, 9, 2, 0]), first_id=1000)
    for batch in stream.batches(10):
        index = batch.ids.numpy() - 1000
        assert batch.labels.tolist() == [[5, 9, 2, 0][label] for label in source.labels[index]]
        assert batch.inputs[:, 0, 0, 0].tolist() == index.tolist()
        assert torch.equal(batch.labels, stream.labels(index))


def test_bad_samples_are_quarantined_and_replaced_by_those_that_follow():
    source = source_of(classes=2, bad={1, 5, 6})
    stream = Stream(source, [np.arange(0, 8), np.arange(8, 16)], first_id=100)
    bad = []
    batches = list(stream.batches(3, on_bad=bad.append))
    assert [b.ids.tolist() for b in batches] == [
        [100, 102, 103],
        [104, 107],
        [108, 109, 110],
        [111, 112, 113],
        [114, 115],
    ]
    assert [b.end for b in batches] == [4, 8, 11, 14, 16]
    assert [(q.id, q.name, q.reason, q.position) for q in bad] == [
        (101, "s1", "sample 1 is broken", 1),
        (105, "s5", "sample 5 is broken", 5),
        (106, "s6", "sample 6 is broken", 6),
    ]


def test_bad_samples_at_a_border_belong_to_the_batch_before_it():
    stream = Stream(source_of(classes=2, bad={3, 7}), [np.arange(0, 4), np.arange(4, 8)])
    assert [b.end for b in stream.batches(10)] == [4, 8]


def test_a_stream_of_bad_samples_alone_is_empty():
    bad = []
    stream = Stream(source_of(bad=range(40)), [np.arange(8)])
    assert list(stream.batches(3, on_bad=bad.append)) == [] and len(bad) == 8


cases = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 9),
        "bad": st.sets(st.integers(0, 31), max_size=20),
        "tasks": st.integers(1, 4),
        "borders": st.booleans(),
        "stop": st.integers(0, 12),
    }
)


@settings(deadline=None)
@given(cases)
def test_going_on_gives_what_never_stopping_gives(case):
    stream = replace(class_incremental(source_of(bad=case["bad"]), case["tasks"]), borders=case["borders"])
    whole_bad, whole = [], []
    for batch in stream.batches(case["batch"], on_bad=whole_bad.append):
        # all that is quarantined ahead of a batch's end is reported by then, and nothing behind it
        assert all(q.position < batch.end for q in whole_bad)
        whole.append(batch)
        order = np.concatenate(stream.tasks)[: batch.end].tolist()
        assert sorted(ids(whole) + [q.id for q in whole_bad]) == sorted(order)
    stop = min(case["stop"], len(whole))
    start = whole[stop - 1].end if stop else 0
    bad = []
    again = list(stream.batches(case["batch"], start=start, on_bad=bad.append))
    assert len(again) == len(whole) - stop
    assert all(same(a, b) for a, b in zip(again, whole[stop:]))
    assert bad == [q for q in whole_bad if q.position >= start]
    assert len(ids(whole)) + len(whole_bad) == len(stream)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers, tmp_path):
    random = np.random.default_rng(0)
    for c in ("a", "b"):
        (tmp_path / c).mkdir()
        for i in range(90):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / c / f"{i}.png")
    for i in (3, 4, 70):
        (tmp_path / "b" / f"{i}.png").write_bytes(b"broken")
    stream = class_incremental(open_source(tmp_path), tasks=2)
    bad, bad_here = [], []
    state = torch.get_rng_state()
    found = list(stream.batches(7, start=14, workers=workers, on_bad=bad.append))
    assert torch.equal(state, torch.get_rng_state())  # reading leaves the global random state alone
    here = list(stream.batches(7, start=14, on_bad=bad_here.append))
    assert len(found) == len(here) and all(same(a, b) for a, b in zip(found, here))
    assert bad == bad_here and len(bad) > 0
    inputs, labels, kept = load(stream.source, stream.tests()[1], workers=workers)
    inputs_here, labels_here, kept_here = load(stream.source, stream.tests()[1])
    assert torch.equal(inputs, inputs_here) and torch.equal(labels, labels_here) and np.array_equal(kept, kept_here)


def test_leaving_early_leaves_no_worker_behind():
    import multiprocessing

    batches = Stream(source_of(n=4000, n_test=0), [np.arange(4000)]).batches(4, workers=2)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_gets_one_line():
    stream = Stream(replace(source_of(), read=Dying()), [np.arange(8)])
    with pytest.raises(DataError, match=r"a process that reads pictures died.*use fewer workers"):
        list(stream.batches(4, workers=1))


def test_a_source_in_memory_starts_no_worker():
    import multiprocessing

    batches = class_incremental(open_source("builtin:digits")).batches(10, workers=2)
    next(batches)
    assert not multiprocessing.active_children()


def test_an_error_that_is_no_fault_of_a_sample_is_not_hidden():
    def read(i):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Stream(replace(source_of(), read=read), [np.arange(4)]).batches(2))


@pytest.mark.parametrize(
    "tasks, more, message",
    [
        ([], {}, "no sample to learn"),
        ([np.arange(3), np.arange(0)], {}, "no sample to learn"),
        ([np.array([0, 40])], {}, "sample 40 is not in made, which has 40"),
        ([np.array([-1, 4])], {}, "sample -1 is not in made"),
        ([np.array([0, 1]), np.array([1])], {}, "sample 1 comes twice"),
        ([np.array([39])], {}, "sample 39 is held out"),
        ([np.arange(3)], {"codes": np.arange(3)}, "3 codes for 4 classes"),
        ([np.arange(3)], {"held_out": []}, "0 test sets for 1 tasks"),
    ],
)
def test_what_is_no_stream_gets_one_line(tasks, more, message):
    with pytest.raises(DataError, match=message):
        Stream(source_of(), tasks, **more)


@pytest.mark.parametrize("options", [{"batch": 0}, {"start": -1}, {"start": 33}, {"workers": -1}])
def test_options_of_batches_out_of_range(options):
    with pytest.raises(SettingError, match=next(iter(options))):
        class_incremental(source_of(), 2).batches(**options)


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda s: class_incremental(s, 5), SettingError, "tasks is 5; made has 4 classes to learn"),
        (lambda s: class_incremental(s, 0), SettingError, "tasks is 0"),
        (lambda s: class_incremental(s, 2, "random"), SettingError, "order is 'random'"),
        (lambda s: blurred(s, 2, -1), SettingError, "blur is -1"),
        (lambda s: by_time(s, 2), DataError, "has no times"),
        (lambda s: by_site(s), DataError, "has no sites"),
        (lambda s: by_task(s), DataError, "has no tasks"),
        (lambda s: by_time(replace(s, times=np.zeros(40)), 2), SettingError, "does not part into 2 spans"),
        (lambda s: by_time(replace(s, times=np.arange(40.0)), 0), SettingError, "tasks is 0"),
        (lambda s: shuffled(replace(s, test=np.ones(40, bool))), DataError, "every sample is held out"),
    ],
)
def test_orders_that_do_not_fit_the_source(make, kind, message):
    with pytest.raises(kind, match=message):
        make(source_of())
