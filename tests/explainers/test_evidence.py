from itertools import combinations
from math import factorial

import pytest
import torch

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.explainers import evidence
from everlearn.learners.er import ER
from everlearn.models import build_model


def few(n=6):
    """A learner that remembers n pictures."""
    learner = ER(build_model("slim_resnet18", channels=1, size=8), memory=n, precision="float32", device="cpu")
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randint(0, 255, (n, 1, 8, 8), generator=generator).to(torch.uint8)
    learner.observe(Batch(inputs, torch.tensor([5, 2, 9])[torch.arange(n) % 3], 100 + torch.arange(n)))
    return learner


def brute_force(learner, x, target, k):
    """Shapley values by all coalitions of memory for one picture."""
    m = learner.memory
    f, q = learner.features(m.inputs[: m.size]), learner.features(x)
    far = ((f - q) ** 2).sum(1).tolist()
    match = (m.targets[: m.size] == target).tolist()

    def worth(coalition):
        return sum(match[i] for i in sorted(coalition, key=lambda i: far[i])[:k]) / k

    n, values = m.size, []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        value = 0.0
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            value += weight * sum(worth((*s, i)) - worth(s) for s in combinations(others, size))
        values.append(value)
    return values, worth(range(n))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("target", [0, 1])
def test_values_are_shapley_values_and_sum_to_the_vote(k, target):
    learner = few()
    x = torch.randint(0, 255, (1, 1, 8, 8), generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    wanted, vote = brute_force(learner, x, target, k)
    found = evidence(learner, x, torch.tensor([target]), top=6, k=k)[0]
    by_id = {e.id: e.value for e in found}
    for slot, value in enumerate(wanted):
        assert by_id.get(int(learner.memory.ids[slot]), 0.0) == pytest.approx(value, abs=1e-5)
    assert sum(e.value for e in found) == pytest.approx(vote, abs=1e-5)


def test_what_each_case_carries(learner, pictures):
    found = evidence(learner, pictures, torch.tensor([0, 1]), top=2, k=3)
    assert len(found) == 2
    for cases, code in zip(found, [7, 3]):
        values = [e.value for e in cases]
        assert values == sorted(values, reverse=True) and 0 not in values
        assert sum(v > 0 for v in values) <= 2 and sum(v < 0 for v in values) <= 2
        best = cases[0]
        assert best.code == code and best.value > 0 and best.distance >= 0
        slot = int((learner.memory.ids[:40] == best.id).nonzero()[0])
        assert torch.equal(best.picture, learner.memory.inputs[slot]) and best.picture.dtype == torch.uint8
        assert best.step == int(learner.memory.steps[slot])


def test_a_batch_equals_its_parts(learner, pictures):
    both = evidence(learner, pictures, torch.tensor([0, 1]))
    for i in range(2):
        alone = evidence(learner, pictures[i : i + 1], torch.tensor([i]))[0]
        assert [(e.id, pytest.approx(e.value)) for e in alone] == [(e.id, e.value) for e in both[i]]


def test_none_and_nothing_remembered(learner, pictures):
    assert evidence(learner, pictures[:0], torch.zeros(0, dtype=torch.int64)) == []
    fresh = ER(build_model("slim_resnet18", channels=1, size=8), memory=4, device="cpu")
    assert evidence(fresh, pictures, torch.tensor([0, 0])) == [[], []]


def test_settings_out_of_range(learner, pictures):
    with pytest.raises(SettingError, match="top is 0; expected 1 or more"):
        evidence(learner, pictures, torch.tensor([0, 1]), top=0)
    with pytest.raises(SettingError, match="k is 0; expected 1 or more neighbours"):
        evidence(learner, pictures, torch.tensor([0, 1]), k=0)
