import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.explainers.otsu import otsu_threshold


def between(values, t):
    low, high = [v for v in values if v <= t], [v for v in values if v > t]
    if not high:
        return -1.0
    return len(low) * len(high) * (sum(high) / len(high) - sum(low) / len(low)) ** 2


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_otsu_equals_brute_force(numbers):
    values = [float(n) for n in numbers]
    found = otsu_threshold(torch.tensor(values)).item()
    assert found in values
    best = max(between(values, t) for t in values)
    assert between(values, found) == best or abs(between(values, found) - best) < 1e-9 * max(best, 1)


def test_otsu_of_equal_values_is_that_value():
    assert otsu_threshold(torch.full((7,), 0.5)).item() == 0.5


def test_otsu_takes_rows():
    rows = torch.tensor([[0.0, 0.1, 5.0], [0.0, 9.0, 10.0]])
    assert otsu_threshold(rows).tolist() == [otsu_threshold(rows[0]).item(), otsu_threshold(rows[1]).item()]
