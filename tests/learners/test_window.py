"""The window over memory that ASER scores with: what it holds, for how long, and in which shares."""

import pytest
import torch

from everlearn.learners.window import FAR, NOBODY, REST, Window
from everlearn.memory import Memory


def memory_of(labels):
    n = len(labels)
    memory = Memory(n)
    memory.append(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.tensor(labels), torch.arange(n), step=5)
    return memory


def slid(window, memory, rng, step, rows=1):
    """Features are the slot's number, so that they tell whose they are."""
    slots = window.slide(memory, rng, step, rows)
    window.fill(slots[:, None].float().expand(-1, window.features.shape[3]))
    return slots


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("capacity", "candidates", "refresh", "rows", "b"),
    [(1000, 180, 18, 18, 5), (200, 180, 18, 18, 3), (20, 180, 18, 6, 1), (1000, 10, 18, 5, 1), (1, 180, 18, 1, 1)],
)
def test_its_size(capacity, candidates, refresh, rows, b):
    window = Window.over(Memory(capacity), candidates, refresh, width=4)
    assert window.features.shape == (3, rows, b, 4) and window.rows == rows
    assert 2 * rows * b <= candidates and (capacity < 3 or 3 * rows * b <= capacity)


def test_no_sample_stands_in_two_places(rng):
    memory = memory_of([0, 1, 2] * 12)
    window = Window.over(memory, 20, 5, width=2)
    slid(window, memory, rng, 6, window.rows)
    for step in range(7, 40):
        slid(window, memory, rng, step)
        held = window.slots[window.classes != NOBODY]
        assert len(set(held.tolist())) == len(held) <= 30
        assert torch.equal(memory.targets[held], window.classes[window.classes != NOBODY])
        assert torch.equal(window.features[..., 0][window.classes != NOBODY], held.float())
        assert (window.features[window.classes == NOBODY] == FAR).all()
        assert (window.slots[window.classes == NOBODY] == 36).all()
        assert (window.classes[2] != NOBODY).all() and len(held) >= 20


def test_s_draws_candidates_too_which_then_are_none(rng):
    """What has come in last stands among the candidates, and a new class has samples nowhere else."""
    memory = memory_of([0] * 30)
    window = Window.over(memory, 20, 10, width=1)
    slid(window, memory, rng, 6, 10)
    drawn, pictures = window.drawn(), torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    new = drawn.C[:4].clone()
    memory.write(new, pictures, torch.ones(4, dtype=torch.int64), torch.arange(4), 7, classes=2)
    drawn.y_C[:4] = 1
    for step in range(7, 11):
        assert (window.classes[2] == 1).sum() == step - 7
        slid(window, memory, rng, step)
    assert not torch.isin(window.slots[:2], new).any()


def test_a_sample_of_s_becomes_a_candidate_and_leaves(rng):
    memory = memory_of([0] * 60)
    window = Window.over(memory, 12, 3, width=1)
    slid(window, memory, rng, 6, 3)
    drawn, S = slid(window, memory, rng, 7).chunk(2)
    for age in range(7):
        assert torch.isin(drawn, window.slots[0]).all() == (age < 3)
        assert torch.isin(S, window.slots[2]).all() == (age < 3)
        assert torch.isin(S, window.slots[1]).all() == (3 <= age < 6)
        if 3 <= age < 6:
            assert torch.isin(S, window.drawn().C).all()
        if age < 6:
            slid(window, memory, rng, 8 + age)
    assert not torch.isin(S, window.slots).any()


def test_classes_have_equal_shares_of_s(rng):
    memory = memory_of([0] * 70 + [1] * 40 + [2] * 30)
    window = Window.over(memory, 36, 6, width=1)
    for step, rows in enumerate([6] + [1] * 20):
        slid(window, memory, rng, step, rows)
        shares = torch.bincount(window.classes[2].flatten(), minlength=3)
        assert shares.max() - shares.min() <= 1, step


def test_a_new_class_fills_its_share_in_few_steps(rng):
    memory = memory_of([0, 1] * 60)
    window = Window.over(memory, 36, 6, width=1)
    slid(window, memory, rng, 0, 6)
    slots = torch.arange(0, 120, 4)
    memory.write(slots, torch.zeros(30, 1, 2, 2, dtype=torch.uint8), torch.full((30,), 2), slots, 9, classes=3)
    window.forget(slots)
    for step in range(3):
        slid(window, memory, rng, step)
    assert (window.classes[2] == 2).sum() >= 5  # of 18


def test_candidates_are_drawn_uniformly(rng):
    memory = memory_of([0] * 30 + [1] * 10)
    window, times = Window.over(memory, 10, 5, width=1), torch.zeros(41)
    slid(window, memory, rng, 0, 5)
    for step in range(4000):
        times[slid(window, memory, rng, step)[:1]] += 1
    share = times[30:40].sum() / times.sum()  # a little under a quarter: S takes half its samples of them
    assert times[40] == 0 and 0.15 < share < 0.25
    assert times[:30].std() < 0.15 * times[:30].mean()


def test_a_memory_too_small_leaves_places_empty(rng):
    memory = memory_of([0, 0])
    window = Window.over(memory, 10, 5, width=1)
    for step in range(4):
        slid(window, memory, rng, step)
        held = window.slots[window.classes != NOBODY]
        assert sorted(held.tolist()) in ([0], [1], [0, 1])
    drawn = window.drawn()
    assert (drawn.y_C == NOBODY).any() and drawn.w_S.sum() in (0, 1)


def test_what_is_drawn_can_be_retrieved_at_once_and_written_to(rng):
    memory = memory_of([0, 1] * 20)
    window = Window.over(memory, 12, 3, width=1)
    slid(window, memory, rng, 50, 3)
    drawn = window.drawn()
    assert (drawn.since[drawn.y_C != NOBODY] == 50 - REST).all() and (drawn.came[drawn.y_C != NOBODY] == 5).all()
    drawn.f_C[0], drawn.y_C[0], drawn.since[0] = -1, 1, 50
    again = window.drawn()
    assert again.f_C[0] == -1 and again.y_C[0] == 1 and again.since[0] == 50
