"""Learning in several processes: two_processes.py holds what is checked within each of two."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import METHODS_TOGETHER, build

from everlearn.errors import SettingError
from everlearn.learners import Group, deal
from everlearn.scaling.processes import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the state of every method as two processes had it after five steps."""
    path = tmp_path_factory.mktemp("two")
    launch([str(Path(__file__).with_name("two_processes.py")), str(path)], 2, timeout=300)
    return path


def loaded(name, folder, rank, size):
    state = load_file(folder / f"{name}.safetensors")
    learner = build(name, Group(rank, size))
    learner.load_state_dict(deal(state, learner))
    return learner


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", METHODS_TOGETHER)
def test_another_number_of_processes_takes_over_memory(folder, name, size):
    state = load_file(folder / f"{name}.safetensors")
    learners = [loaded(name, folder, rank, size) for rank in range(size)]
    ids = torch.cat([learner.memory.ids[: learner.memory.size] for learner in learners])
    assert sorted(ids.tolist()) == sorted(state["memory.ids"].tolist())
    assert sum(learner.memory.capacity for learner in learners) == 21
    assert sum(learner.memory.offered for learner in learners) == int(state["memory.known"][2])
    for learner in learners:
        memory = learner.memory
        assert memory.size <= memory.capacity
        for c in range(memory.n_classes):  # the index is one of what is held
            assert (
                sorted(memory.index.slots(c).tolist()) == (memory.targets[: memory.size] == c).nonzero().T[0].tolist()
            )
    for c in state["memory.targets"].unique().tolist():  # each class is dealt evenly
        held = [int((learner.memory.targets == c).sum()) for learner in learners]
        assert max(held) - min(held) <= 1
    again = loaded(name, folder, size - 1, size)
    assert all(torch.equal(t, again.state_dict()[key]) for key, t in learners[-1].state_dict().items())
    if size == 1:
        assert torch.isfinite(learners[0].predict(learners[0].memory.inputs[:3]).probabilities).all()


def test_what_goes_with_a_slot_goes_with_its_sample(folder):
    state = load_file(folder / "der.safetensors")
    z = dict(zip(state["memory.ids"].tolist(), state["rule.z"]))
    for rank in range(3):
        learner = loaded("der", folder, rank, 3)
        for slot, id_ in enumerate(learner.memory.ids[: learner.memory.size].tolist()):
            assert torch.equal(learner.z[slot], z[id_])


def test_counts_of_what_came_add_up(folder):
    whole = loaded("icarl", folder, 0, 1).exemplars
    parts = [loaded("icarl", folder, rank, 3).exemplars for rank in range(3)]
    assert sum(whole.came) == 38  # all samples of five steps
    assert [sum(counts) for counts in zip(*(part.came for part in parts))] == whole.came


@pytest.mark.parametrize("name", ["joint", "offline", "gdumb"])
def test_who_trains_on_all_of_memory_refuses(name):
    with pytest.raises(SettingError, match="trains on all of memory at once, which several processes share out"):
        build(name, Group(0, 2))


def test_memory_must_reach_for_all():
    with pytest.raises(SettingError, match="memory is 2 for 3 processes; expected as many"):
        build("er", Group(0, 3), memory=2)
