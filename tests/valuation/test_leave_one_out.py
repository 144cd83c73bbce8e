import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.valuation import knn_shapley, leave_one_out


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 12), k=st.integers(1, 14), seed=st.integers(0, 10**6))
def test_equals_one_sample_after_the_other(n, k, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 4, (n, 3), generator=generator).float()  # ties and twins
    y = torch.randint(0, 3, (n,), generator=generator)
    found = leave_one_out(x, y, k, max_bytes=200)
    total = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        rest = torch.tensor([j for j in range(n) if j != i])
        s = knn_shapley(x[i : i + 1], y[i : i + 1], x[rest], y[rest], k)[0]
        total[rest] += s.double()
        assert found.support[i].item() == pytest.approx(float(s.sum()), abs=1e-5)  # the efficiency axiom
        far = (x[rest] - x[i]).norm(dim=1)
        assert found.distance[i].item() == pytest.approx(float(far.min()), abs=1e-5)
        assert int(found.nearest[i]) == int(rest[far.argmin()])
        near = y[rest][far.sort(stable=True).indices[:k]].tolist()
        assert near.count(int(found.suggested[i])) == max(near.count(v) for v in near)
        assert found.suggested_support[i].item() == pytest.approx(near.count(int(found.suggested[i])) / k)
    torch.testing.assert_close(found.value, total / (n - 1), atol=1e-5, rtol=1e-4)


def test_a_wrong_label_misleads():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.eye(3)[y] * 5 + torch.randn(60, 3, generator=generator)
    wrong = y.clone()
    wrong[17] = (y[17] + 1) % 3
    found = leave_one_out(x, wrong, 5)
    assert int(found.value.argmin()) == 17 and found.support[17] < 0.5 and int(found.suggested[17]) == int(y[17])


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(n):
    found = leave_one_out(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64))
    assert found.value.tolist() == [0.0] * n and found.nearest.tolist() == [-1] * n
    assert torch.isinf(found.distance).all()


def test_what_does_not_fit():
    with pytest.raises(SettingError, match="k is 0"):
        leave_one_out(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0)
    with pytest.raises(SettingError, match="expected one label for each"):
        leave_one_out(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
