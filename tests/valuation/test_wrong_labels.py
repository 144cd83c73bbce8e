import pytest
import torch

from everlearn.valuation import wrong_labels


@pytest.mark.parametrize("seed", range(3))
def test_finds_planted_wrong_labels(seed):
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(300) % 5
    x = 3 * torch.eye(5)[true] @ torch.randn(5, 16, generator=generator) + torch.randn(300, 16, generator=generator)
    planted = torch.randperm(300, generator=generator)[:30]
    y = true.clone()
    y[planted] = (y[planted] + 1 + torch.randint(4, (30,), generator=generator)) % 5
    found = wrong_labels(x, y, 10)
    lowest = set(found.score.argsort()[:30].tolist())
    assert len(lowest & set(planted.tolist())) >= 28
    assert found.flagged[planted].float().mean() > 0.9 and found.flagged.sum() <= 33
    assert (found.judged.suggested[planted] == true[planted]).float().mean() > 0.9


def test_right_labels_are_left_alone():
    true = torch.arange(100) % 4
    x = 9 * torch.eye(4)[true] + torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert not wrong_labels(x, true).flagged.any()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_samples(n):
    found = wrong_labels(torch.ones(n, 3), torch.zeros(n, dtype=torch.int64))
    assert len(found.score) == n and not found.flagged.any() and torch.isfinite(found.score).all()
