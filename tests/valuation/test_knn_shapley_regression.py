"""KNN-Shapley for regression against brute force over all coalitions."""

from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.valuation import knn_shapley
from everlearn.valuation.knn_shapley_regression import knn_shapley_regression

numbers = st.floats(-5, 5, allow_nan=False, width=32)


def worth(nearest_first: list[float], members: tuple[int, ...], wanted: float, k: int) -> float:
    """v(S) by definition."""
    return -((sum(nearest_first[i] for i in sorted(members)[:k]) / k - wanted) ** 2)


def brute_force(targets: list[float], wanted: float, k: int) -> list[float]:
    """Shapley values by definition, of candidates sorted from near to far."""
    n = len(targets)
    values = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        value = 0.0
        for size in range(n):
            for group in combinations(others, size):
                gain = worth(targets, (*group, i), wanted, k) - worth(targets, group, wanted, k)
                value += gain / (n * comb(n - 1, size))
        values.append(value)
    return values


@given(targets=st.lists(numbers, min_size=1, max_size=8), wanted=numbers, k=st.integers(1, 10), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_equals_brute_force(targets, wanted, k, seed):
    n = len(targets)
    expected = torch.tensor(brute_force(targets, wanted, k), dtype=torch.float64)
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    features = torch.arange(1.0, n + 1, dtype=torch.float64)[:, None][shuffle]
    y = torch.tensor(targets, dtype=torch.float64)[shuffle]
    query = torch.zeros(1, 1, dtype=torch.float64)
    values = knn_shapley_regression(query, torch.tensor([wanted]), features, y, k)
    torch.testing.assert_close(values, expected[shuffle][None], rtol=0, atol=1e-6)


@given(n=st.integers(1, 40), e=st.integers(1, 6), k=st.integers(1, 50), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_values_sum_to_the_worth_of_all(n, e, k, seed):
    rng = torch.Generator().manual_seed(seed)
    features, queries = torch.randn(n, 3, generator=rng).double(), torch.randn(e, 3, generator=rng).double()
    y, wanted = torch.randn(n, generator=rng).double(), torch.randn(e, generator=rng).double()
    order = torch.cdist(queries, features).argsort(dim=1, stable=True)
    whole = -((y[order][:, :k].sum(1) / k - wanted) ** 2) + wanted**2
    values = knn_shapley_regression(queries, wanted, features, y, k)
    torch.testing.assert_close(values.sum(1), whole, rtol=1e-9, atol=1e-9)


def test_with_one_neighbour_and_targets_0_and_1_it_is_the_vote(rng):
    features, queries = torch.randn(30, 4, generator=rng), torch.randn(5, 4, generator=rng)
    labels = torch.randint(2, (30,), generator=rng)
    vote = knn_shapley(queries, torch.ones(5, dtype=torch.int64), features, labels, 1)
    values = knn_shapley_regression(queries, torch.ones(5), features, labels.float(), 1)
    torch.testing.assert_close(values.float(), vote, rtol=0, atol=1e-5)


def test_chunks_change_nothing(rng):
    features, queries = torch.randn(50, 4, generator=rng), torch.randn(23, 4, generator=rng)
    y, wanted = torch.randn(50, generator=rng), torch.randn(23, generator=rng)
    whole = knn_shapley_regression(queries, wanted, features, y)
    torch.testing.assert_close(knn_shapley_regression(queries, wanted, features, y, max_bytes=1), whole)


def test_no_candidates_and_no_evaluation_points():
    none, ones, empty = torch.zeros(0, 2), torch.ones(2, 2), torch.zeros(0)
    assert knn_shapley_regression(ones, torch.ones(2), none, empty).shape == (2, 0)
    assert knn_shapley_regression(none, empty, ones, torch.ones(2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 or more"),
        ({"features": torch.ones(2, 3)}, "same D"),
        ({"targets": torch.ones(5)}, "one target for each"),
    ],
)
def test_bad_input_gets_one_line(changes, message):
    good = {
        "eval_features": torch.ones(1, 2),
        "eval_targets": torch.ones(1),
        "features": torch.ones(2, 2),
        "targets": torch.ones(2),
    }
    with pytest.raises(SettingError, match=message):
        knn_shapley_regression(**(good | changes))
