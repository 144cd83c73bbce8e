"""The store, its draws and its policies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import RunError, SettingError
from everlearn.memory import ClassBalanced, HostClasses, Memory, reservoir


def pictures(n: int, value: int = 0) -> torch.Tensor:
    return torch.full((n, 1, 8, 8), value, dtype=torch.uint8)


def filled(labels: list[int], capacity: int | None = None) -> Memory:
    memory = Memory(capacity or len(labels))
    memory.append(pictures(len(labels)), torch.tensor(labels), torch.arange(len(labels)), step=0)
    return memory


def test_reservoir_keeps_a_uniform_sample():
    kept = torch.zeros(40)
    for seed in range(600):
        memory, rng = Memory(8), torch.Generator().manual_seed(seed)
        for start in range(0, 40, 7):
            ids = torch.arange(start, min(start + 7, 40))
            reservoir(memory, pictures(len(ids)), torch.zeros_like(ids), ids, 0, rng, classes=1)
        kept[memory.ids[:8]] += 1
    # each id is kept with probability 1/5: 120 ± 9.8 of 600; the bound is 4.6 deviations
    assert (kept - 120).abs().max() < 45
    chi2 = ((kept - 120) ** 2 / 120).sum()
    assert chi2 < 80


@given(
    capacity=st.integers(1, 9),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    b=st.integers(1, 7),
    balanced=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_never_over_the_bound_and_counts_are_true(capacity, labels, b, balanced):
    memory, rng = Memory(capacity), torch.Generator().manual_seed(1)
    policy = ClassBalanced() if balanced else reservoir
    for start in range(0, len(labels), b):
        targets = torch.tensor(labels[start : start + b])
        ids = torch.arange(start, start + len(targets))
        policy(memory, pictures(len(targets)), targets, ids, start, rng, classes=4)
    assert memory.size == min(capacity, len(labels))
    assert memory.offered == len(labels)
    held = memory.targets[: memory.size]
    assert memory.counts.tolist() == torch.bincount(held, minlength=memory.n_classes).tolist()
    assert [labels[i] for i in memory.ids[: memory.size].tolist()] == held.tolist()
    assert len(set(memory.ids[: memory.size].tolist())) == memory.size


def test_class_balanced_keeps_rare_classes_whole():
    memory, policy, rng = Memory(20), ClassBalanced(), torch.Generator().manual_seed(0)
    labels = [0] * 200 + [1] * 4 + [2] * 100
    for i, label in enumerate(labels):
        policy(memory, pictures(1), torch.tensor([label]), torch.tensor([i]), i, rng, classes=3)
    assert memory.counts.tolist() == [8, 4, 8]


def test_classes_on_the_host_follow_what_others_write():
    memory, host = Memory(3), HostClasses()
    host.offer(memory, pictures(3), torch.tensor([0, 0, 1]), torch.arange(3), 0, lambda label: host.free, classes=2)
    memory.write(torch.tensor([0]), pictures(1), torch.tensor([1]), torch.tensor([7]), 1, classes=2)
    host.offer(memory, pictures(1), torch.tensor([0]), torch.tensor([8]), 2, lambda label: host.one_of(1, 0), classes=2)
    assert host.held.tolist() == memory.targets[:3].tolist() == [0, 0, 1]
    assert memory.ids[:3].tolist() == [8, 1, 2]
    memory.load_state_dict(filled([1, 1], 3).state_dict())
    host.offer(memory, pictures(1), torch.tensor([0]), torch.tensor([9]), 3, lambda label: host.free, classes=2)
    assert host.held.tolist() == memory.targets[:3].tolist() == [1, 1, 0]


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=5), n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_balanced_draws(counts, n, seed):
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    if not labels:
        return
    memory = filled(labels)
    slots, valid = memory.draw_balanced(n, torch.Generator().manual_seed(seed))
    assert slots.shape == (memory.n_classes, n)
    for c in range(memory.n_classes):
        drawn = slots[c][valid[c]].tolist()
        assert len(set(drawn)) == len(drawn) == min(n, counts[c])
        assert all(labels[slot] == c for slot in drawn)


@given(without=st.sets(st.integers(0, 12), max_size=13), n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_balanced_draws_leave_out_what_they_are_told_to(without, n, seed):
    labels = [0] * 7 + [2] * 5
    memory = filled(labels)  # twelve slots; 12 is nobody's
    slots, valid = memory.draw_balanced(n, torch.Generator().manual_seed(seed), torch.tensor(sorted(without)).long())
    for c in range(3):
        drawn, free = slots[c][valid[c]].tolist(), {i for i, of in enumerate(labels) if of == c} - without
        assert len(set(drawn)) == len(drawn) == min(n, len(free)) and set(drawn) <= free


def test_balanced_draws_are_uniform():
    memory, seen = filled([0] * 10 + [1] * 3), torch.zeros(13)
    for seed in range(500):
        slots, valid = memory.draw_balanced(2, torch.Generator().manual_seed(seed))
        seen[slots[valid]] += 1
    assert (seen[:10] - 100).abs().max() < 45
    assert (seen[10:] - 333).abs().max() < 60


@pytest.mark.parametrize("n", [3, 10, 100, 2000])
def test_draws_are_distinct(n, rng):
    memory = filled([0] * 1000)
    slots = memory.draw(n, rng)
    assert len(slots) == min(n, 1000) == len(torch.unique(slots))
    assert slots.max() < 1000


def test_a_masked_write_changes_only_what_it_keeps():
    memory = filled([0, 0, 1])
    keep = torch.tensor([True, False, False])
    memory.write(
        torch.tensor([0, 1, 2]),
        pictures(3, 9),
        torch.tensor([1, 1, 0]),
        torch.tensor([7, 8, 9]),
        5,
        classes=2,
        keep=keep,
    )
    assert memory.targets[:3].tolist() == [1, 0, 1]
    assert memory.ids[:3].tolist() == [7, 1, 2]
    assert memory.inputs[:3].amax((1, 2, 3)).tolist() == [9, 0, 0]
    assert memory.counts.tolist() == [1, 2]


def test_state_is_restored_to_the_bit(rng):
    memory = Memory(10)
    for start in range(0, 60, 6):
        ids = torch.arange(start, start + 6)
        reservoir(memory, pictures(6, start), ids % 3, ids, start, rng, classes=3)
    other = Memory(10)
    other.load_state_dict(memory.state_dict())
    assert other.offered == memory.offered
    for name, tensor in memory.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    for c in range(3):
        assert other.index.slots(c).tolist() == memory.index.slots(c).tolist()


def test_bad_use_gets_one_line():
    with pytest.raises(SettingError, match="capacity is 0; expected 1 or more"):
        Memory(0)
    with pytest.raises(SettingError, match="2 samples for 1 free slots"):
        filled([0, 0], capacity=1)
    with pytest.raises(SettingError, match="expected one size in all of a run"):
        memory = filled([0])
        big = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
        memory.write(torch.tensor([0]), big, torch.tensor([0]), torch.tensor([0]), 0, classes=1)
    with pytest.raises(SettingError, match="memory is empty"):
        Memory(3).take(torch.tensor([0]))
    with pytest.raises(RunError, match="the state is of a memory of 2; this one holds 3"):
        Memory(3).load_state_dict(filled([0, 0]).state_dict())
