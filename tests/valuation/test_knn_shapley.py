"""KNN-Shapley against brute force over all coalitions."""

from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.valuation import knn_shapley
from everlearn.valuation.knn_shapley import nearest_order


def worth(nearest_first: list[int], members: tuple[int, ...], k: int, utility: str, classes: int) -> float:
    """v(S): matches among the K members of S that come first in the order of distance."""
    if not members:
        return 1 / classes if utility == "soft" else 0.0
    matches = [nearest_first[i] for i in sorted(members)[:k]]
    return sum(matches) / (min(k, len(members)) if utility == "soft" else k)


def brute_force(matches: list[int], k: int, utility: str, classes: int) -> list[float]:
    """Shapley values by definition, of candidates sorted from near to far."""
    n = len(matches)
    values = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        value = 0.0
        for size in range(n):
            for group in combinations(others, size):
                gain = worth(matches, (*group, i), k, utility, classes) - worth(matches, group, k, utility, classes)
                value += gain / (n * comb(n - 1, size))
        values.append(value)
    return values


@pytest.mark.parametrize("utility", ["hard", "soft"])
@given(matches=st.lists(st.integers(0, 1), min_size=1, max_size=8), k=st.integers(1, 10), classes=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(utility, matches, k, classes):
    n = len(matches)
    features = torch.arange(1.0, n + 1, dtype=torch.float64)[:, None]
    labels = torch.tensor([7 if m else 3 for m in matches])
    query = torch.zeros(1, 1, dtype=torch.float64)
    values = knn_shapley(query, torch.tensor([7]), features, labels, k, utility=utility, classes=classes)
    expected = torch.tensor([brute_force(matches, k, utility, classes)], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


@given(n=st.integers(1, 40), e=st.integers(1, 6), k=st.integers(1, 50), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_values_sum_to_the_worth_of_all(n, e, k, seed):
    rng = torch.Generator().manual_seed(seed)
    features, queries = torch.randn(n, 3, generator=rng), torch.randn(e, 3, generator=rng)
    labels, wanted = torch.randint(3, (n,), generator=rng), torch.randint(3, (e,), generator=rng)
    order = torch.cdist(queries.double(), features.double()).argsort(dim=1, stable=True)
    matches = (labels[order] == wanted[:, None])[:, :k].double().sum(1)
    hard = knn_shapley(queries, wanted, features, labels, k)
    torch.testing.assert_close(hard.sum(1).double(), matches / k, rtol=0, atol=1e-5)
    soft = knn_shapley(queries, wanted, features, labels, k, utility="soft", classes=3)
    torch.testing.assert_close(soft.sum(1).double(), matches / min(k, n) - 1 / 3, rtol=0, atol=1e-5)


def test_chunks_change_nothing(rng):
    features, queries = torch.randn(50, 4, generator=rng), torch.randn(23, 4, generator=rng)
    labels, wanted = torch.randint(4, (50,), generator=rng), torch.randint(4, (23,), generator=rng)
    whole = knn_shapley(queries, wanted, features, labels)
    torch.testing.assert_close(knn_shapley(queries, wanted, features, labels, max_bytes=1), whole, rtol=0, atol=1e-6)


def test_ties_keep_the_order_of_the_candidates():
    same = torch.ones(3, 2)
    values = knn_shapley(torch.zeros(1, 2), torch.tensor([1]), same, torch.tensor([1, 0, 1]), k=1)
    torch.testing.assert_close(values, torch.tensor([[1 / 3 + 1 / 2, -1 / 6, 1 / 3]]))


def test_more_neighbours_than_candidates():
    values = knn_shapley(torch.zeros(1, 1), torch.tensor([1]), torch.ones(3, 1), torch.tensor([0, 0, 1]), k=5)
    assert values[0, 2].item() == pytest.approx(1 / 5)  # not m_N / N = 1/3


def test_no_candidates_and_no_evaluation_points():
    none, ones = torch.zeros(0, 2), torch.ones(2, 2)
    empty, labels = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    assert knn_shapley(ones, labels, none, empty).shape == (2, 0)
    assert knn_shapley(none, empty, ones, labels).shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 or more"),
        ({"utility": "huge"}, "utility is 'huge'; expected 'hard' or 'soft'"),
        ({"features": torch.ones(2, 3)}, "same D"),
        ({"labels": torch.ones(5)}, "one label for each"),
    ],
)
def test_bad_input_gets_one_line(changes, message):
    good = {
        "eval_features": torch.ones(1, 2),
        "eval_labels": torch.ones(1),
        "features": torch.ones(2, 2),
        "labels": torch.ones(2),
    }
    with pytest.raises(SettingError, match=message):
        knn_shapley(**(good | changes))


@pytest.mark.parametrize("offset", [100.0, 1000.0, 1e5])
def test_features_far_from_the_origin_keep_their_neighbours(offset):
    rng = torch.Generator().manual_seed(0)
    q, f = torch.randn(50, 16, generator=rng), torch.randn(300, 16, generator=rng)
    q, f = (q + offset).float(), (f + offset).float()
    exact = torch.cdist(q.double(), f.double()).argsort(1)[:, 0]
    assert (nearest_order(q, f)[:, 0] == exact).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_are_no_numbers_are_far_and_harm_no_others(dtype):
    f = torch.tensor([[0.0, 0.0], [float("nan")] * 2, [1.0, 1.0]], dtype=dtype)
    f[1] = torch.zeros(2, dtype=dtype) / torch.zeros(2, dtype=dtype)  # the sign that processors give it
    assert nearest_order(torch.tensor([[0.9, 0.9]], dtype=dtype), f).tolist() == [[2, 0, 1]]
