"""The tensor index against plain Python sets."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.memory.class_index import ClassIndex

CAPACITY, CLASSES = 12, 4
CHANGE = st.dictionaries(st.integers(0, CAPACITY - 1), st.integers(0, CLASSES - 1), min_size=1, max_size=6)


@given(changes=st.lists(CHANGE, min_size=1, max_size=30), masked=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_equals_sets(changes, masked):
    index, label_of = ClassIndex(CAPACITY), {}
    for change in changes:
        slots = [*change, *[CAPACITY] * masked]
        old = [label_of.get(slot, -1) for slot in change] + [-1] * masked
        new = [*change.values(), *[-1] * masked]
        index.move(torch.tensor(slots), torch.tensor(old), torch.tensor(new), CLASSES)
        label_of |= change
        for label in range(CLASSES):
            expected = sorted(slot for slot, held in label_of.items() if held == label)
            assert sorted(index.slots(label).tolist()) == expected
            assert index.counts[label] == len(expected)
        for slot, label in label_of.items():
            assert index.rows[label + 1, index.place[slot]] == slot


def test_grows_with_the_classes():
    index = ClassIndex(3)
    index.move(torch.tensor([0]), torch.tensor([-1]), torch.tensor([0]), classes=1)
    index.move(torch.tensor([1]), torch.tensor([-1]), torch.tensor([40]), classes=41)
    assert index.counts.tolist() == [1] + [0] * 39 + [1]
    assert index.slots(40).tolist() == [1]
