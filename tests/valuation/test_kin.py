"""Threshold, weighted and truncated KNN-Shapley against brute force over all coalitions."""

from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.valuation import (
    knn_shapley,
    mean_knn_shapley,
    threshold_knn_shapley,
    truncated_knn_shapley,
    weighted_knn_shapley,
)
from everlearn.valuation.knn_shapley import nearest_order
from everlearn.valuation.weighted_knn_shapley import shapley_of_votes


def brute_force(n, worth):
    values = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        values.append(
            sum(
                (worth(sorted((*s, i))) - worth(list(s))) / (n * comb(n - 1, size))
                for size in range(n)
                for s in combinations(others, size)
            )
        )
    return values


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=7), st.integers(2, 4))
def test_threshold(candidates, classes):
    matches = [int(m) for m, _ in candidates]
    places = [float(d) for _, d in candidates]

    def worth(members):
        near = [matches[i] for i in members if places[i] <= 2.5]
        return sum(near) / len(near) if near else 1 / classes

    found = threshold_knn_shapley(
        torch.zeros(1, 1), torch.tensor([1]), torch.tensor(places)[:, None], torch.tensor(matches), 2.5, classes=classes
    )
    wanted = brute_force(len(matches), worth)
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.integers(1, 6))
def test_weighted_votes(votes, k):
    found = shapley_of_votes(torch.tensor([votes]), k, levels=3)
    wanted = brute_force(len(votes), lambda members: float(sum(votes[i] for i in members[:k]) > 0))
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_weighted(k):
    generator = torch.Generator().manual_seed(k)
    features, queries = torch.randn(7, 2, generator=generator), torch.randn(3, 2, generator=generator)
    labels, wanted = torch.randint(3, (7,), generator=generator), torch.randint(3, (3,), generator=generator)
    found = weighted_knn_shapley(queries, wanted, features, labels, k, levels=4)
    for q in range(3):
        d = [float((f - queries[q]).norm()) for f in features]
        order = sorted(range(7), key=lambda i: d[i])
        h = d[order[k - 1]]
        votes = [
            round(4 * float(torch.exp(torch.tensor(-(x**2) / (2 * h**2)).double()))) * (1 if y == wanted[q] else -1)
            for x, y in zip(d, labels.tolist())
        ]

        def worth(members, order=order, votes=votes):
            return float(sum(votes[i] for i in [j for j in order if j in members][:k]) > 0)

        assert found[q].tolist() == pytest.approx(brute_force(7, worth), abs=1e-9)


def test_weighted_of_many_candidates_keeps_the_sum():
    """The counts go far beyond exact whole numbers; efficiency still holds."""
    votes = torch.randint(-4, 5, (2, 600), generator=torch.Generator().manual_seed(0))
    values = shapley_of_votes(votes, k=5, levels=4)
    wanted = (votes[:, :5].sum(1) > 0).double()
    torch.testing.assert_close(values.sum(1), wanted, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 5), more=st.integers(0, 70), seed=st.integers(0, 999))
def test_truncated_is_within_its_bound(n, k, more, seed):
    generator = torch.Generator().manual_seed(seed)
    features, queries = torch.randn(n, 3, generator=generator), torch.randn(4, 3, generator=generator)
    labels, wanted = torch.randint(2, (n,), generator=generator), torch.randint(2, (4,), generator=generator)
    exact = knn_shapley(queries, wanted, features, labels, k)
    found = truncated_knn_shapley(queries, wanted, features, labels, k, nearest=k + more, max_bytes=1000)
    dense = torch.zeros_like(exact).scatter_(1, found.indices, found.values)
    assert (dense - exact).abs().max() <= found.error + 1e-6
    if k + more >= n:
        assert found.error == 0
    else:
        assert found.error == 1 / (k + more)


def test_truncated_over_a_library():
    sklearn = pytest.importorskip("sklearn.neighbors")
    features, queries = torch.randn(200, 4), torch.randn(5, 4)
    labels, wanted = torch.randint(3, (200,)), torch.randint(3, (5,))
    tree = sklearn.KDTree(features.numpy())

    def search(q, m):
        return torch.from_numpy(tree.query(q.numpy(), m)[1])

    a = truncated_knn_shapley(queries, wanted, features, labels, nearest=50, search=search)
    b = truncated_knn_shapley(queries, wanted, features, labels, nearest=50)
    torch.testing.assert_close(a.values, b.values)
    assert torch.equal(a.indices, b.indices)


@pytest.mark.parametrize("utility", ["hard", "soft"])
def test_mean_is_the_mean(utility):
    features, queries = torch.randn(50, 4), torch.randn(9, 4)
    labels, wanted = torch.randint(3, (50,)), torch.randint(3, (9,))
    found = mean_knn_shapley(queries, wanted, features, labels, utility=utility, max_bytes=5000)
    torch.testing.assert_close(found, knn_shapley(queries, wanted, features, labels, utility=utility).mean(0).double())


def test_order_with_ties_zeros_and_signs():
    features = torch.tensor([[0.0], [-0.0], [1.0], [-1.0], [1.0], [2.0], [-3.0]])
    queries = torch.tensor([[0.0], [1.0], [-2.0]])
    d = (features * features).sum(1) - 2 * queries @ features.T
    assert torch.equal(nearest_order(queries, features), d.argsort(dim=1, stable=True))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_order_is_a_stable_sort(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-3, 4, (40, 2), generator=generator).float() / 8  # sums without rounding: true ties
    queries = torch.randint(-3, 4, (5, 2), generator=generator).float()
    d = (features * features).sum(1) - 2 * queries @ features.T
    assert torch.equal(nearest_order(queries, features), d.argsort(dim=1, stable=True))


def test_empty():
    x, y = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    one, label = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    for f, g in (((x, y), (one, label)), ((one, label), (x, y))):
        shape = (len(f[0]), len(g[0]))
        assert threshold_knn_shapley(*f, *g, 1.0).shape == shape
        assert weighted_knn_shapley(*f, *g).shape == shape
        assert truncated_knn_shapley(*f, *g).values.shape == shape
        assert mean_knn_shapley(*f, *g).tolist() == [0.0] * shape[1]


def test_what_does_not_fit():
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(SettingError, match="radius is 0"):
        threshold_knn_shapley(x, y, x, y, 0)
    with pytest.raises(SettingError, match="k is 0 and levels is 4"):
        weighted_knn_shapley(x, y, x, y, 0)
    with pytest.raises(SettingError, match="bandwidth is -1"):
        weighted_knn_shapley(x, y, x, y, bandwidth=-1)
    with pytest.raises(SettingError, match="k is 3 and nearest is 2; expected 1 ≤ k ≤ nearest"):
        truncated_knn_shapley(x, y, x, y, nearest=2)
    with pytest.raises(SettingError, match=r"the search gives \(3, 1\); expected \(3, 3\) indices"):
        truncated_knn_shapley(x, y, x, y, search=lambda q, m: torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(SettingError, match="expected one label for each"):
        threshold_knn_shapley(x, y[:2], x, y, 1.0)
