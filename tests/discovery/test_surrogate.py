"""The surrogate against scikit-learn's Gaussian process and against its own definition."""

import math

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from everlearn.discovery.acquisition import (
    believer_batch,
    border,
    log_expected_improvement,
    normal_scores,
    spread_batch,
    telling_row,
)
from everlearn.discovery.features import Block, Features, Scale
from everlearn.discovery.surrogate import Settings, Surrogate


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return Features(
        (Block("matern", rng.standard_normal((40, 3))), Block("tanimoto", (rng.random((40, 9)) < 0.4) * 1.0))
    )


def test_equals_scikit_learns(features):
    numbers = Features(features.blocks[:1])
    v, length, noise = 1.7, 0.8, 0.05
    surrogate = Surrogate(numbers, Settings(math.log(noise), (math.log(v),), (math.log(length),)))
    z = np.sin(numbers.blocks[0].values[:25]).sum(1)
    surrogate.fit(list(range(25)), z, refit=False)
    mean, deviation = surrogate.predict(list(range(25, 40)))
    kernel = ConstantKernel(v, "fixed") * Matern(length * surrogate._unit[0], "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=noise + 1e-4).fit(numbers.blocks[0].values[:25], z)
    expected, spread = peer.predict(numbers.blocks[0].values[25:], return_std=True)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(deviation, spread, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(surrogate.covariance(list(range(25, 40))))), deviation, atol=1e-6)


def test_lengths_of_its_own_equal_scikit_learns(features):
    numbers = Features((Block("matern", features.blocks[0].values, lengths=True),))
    own, noise = (0.5, -0.3, 1.2), 0.05
    surrogate = Surrogate(numbers, Settings(math.log(noise), (0.2,), (0.1,), (own,)))
    z = np.sin(numbers.blocks[0].values[:25]).sum(1)
    surrogate.fit(list(range(25)), z, refit=False)
    lengths = np.exp(0.1 + np.array(own)) * surrogate._unit[0]
    kernel = ConstantKernel(math.exp(0.2), "fixed") * Matern(lengths, "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=noise + 1e-4).fit(numbers.blocks[0].values[:25], z)
    expected, spread = peer.predict(numbers.blocks[0].values[25:], return_std=True)
    mean, deviation = surrogate.predict(list(range(25, 40)))
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(deviation, spread, atol=1e-4)


def test_a_column_that_says_nothing_gets_a_long_length():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    surrogate = Surrogate(Features((Block("matern", x, lengths=True),)))
    surrogate.fit(list(range(60)), np.sin(2 * x[:, 0]))
    ((first, second, third),) = surrogate.settings.log_own
    assert first < min(second, third) - 1


def test_leaving_one_out_is_fitting_without_it(features):
    surrogate = Surrogate(features)
    z = np.random.default_rng(1).standard_normal(20)
    surrogate.fit(list(range(20)), z)
    mean, deviation = surrogate.leave_one_out()
    other = Surrogate(features, surrogate.settings)
    other.fit(list(range(1, 20)), z[1:], refit=False)
    expected, spread = other.predict([0])
    assert mean[0] == pytest.approx(expected[0], abs=1e-8)
    assert deviation[0] ** 2 == pytest.approx(spread[0] ** 2 + surrogate.noise, abs=1e-8)


def test_fitting_raises_the_likelihood_and_repeats_lower_the_noise(features):
    z = features.blocks[0].values[:30, 0]
    fitted, plain = Surrogate(features), Surrogate(features)
    fitted.fit(list(range(30)), z)
    plain.fit(list(range(30)), z, refit=False)
    truth = features.blocks[0].values[30:, 0]
    assert (
        np.abs(fitted.predict(range(30, 40))[0] - truth).mean() < np.abs(plain.predict(range(30, 40))[0] - truth).mean()
    )
    plain.fit([0], np.array([1.0]), np.array([1.0]), refit=False)
    once = plain.predict([0])[1]
    plain.fit([0], np.array([1.0]), np.array([9.0]), refit=False)
    assert plain.predict([0])[1] < once


def test_log_expected_improvement_equals_the_integral():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal(400_000)
    for mean, deviation, best in ((0.3, 0.5, 0.0), (-1.0, 0.7, 0.2), (2.0, 0.1, 0.0)):
        expected = np.maximum(mean + deviation * draws - best, 0).mean()
        found = np.exp(log_expected_improvement(np.array([mean]), np.array([deviation]), best))[0]
        assert found == pytest.approx(expected, rel=0.03)


def test_log_expected_improvement_falls_smoothly_far_below():
    u = -np.logspace(-2, 5, 400)
    value = log_expected_improvement(u, np.ones(400), 0.0)
    assert np.isfinite(value).all() and (np.diff(value) < 0).all()


def test_a_batch_does_not_ask_the_same_twice():
    twins = np.repeat(np.linspace(-2, 2, 12), 2)[:, None]
    surrogate = Surrogate(Features((Block("matern", twins),)), Settings(math.log(0.01), (0.0,), (math.log(0.3),)))
    surrogate.fit([0, 12, 22], normal_scores(np.array([0.0, 1.0, 0.5])), refit=False)
    rows = np.array([i for i in range(24) if i not in (0, 12, 22)])
    chosen = believer_batch(surrogate, rows, np.zeros(len(rows)), 0.5, 4)
    assert len({float(twins[i, 0]) for i in chosen}) == 4
    assert len(set(spread_batch(surrogate, rows, [0], 6, seed=0))) == 6


def test_a_batch_does_not_ask_what_is_being_measured():
    line = Features((Block("matern", np.linspace(-2, 2, 41)[:, None]),))
    surrogate = Surrogate(line, Settings(math.log(1e-3), (0.0,), (-1.0,)))
    surrogate.fit([0, 40], np.array([0.0, 0.1]), refit=False)
    rows = np.arange(1, 40)
    (first,) = believer_batch(surrogate, rows, np.zeros(39), 0.0, 1)
    (second,) = believer_batch(surrogate, np.setdiff1d(rows, first), np.zeros(38), 0.0, 1, [first])
    assert [first, second] == believer_batch(surrogate, rows, np.zeros(39), 0.0, 2) and abs(second - first) > 5


def test_what_tells_most_leaves_least_variance(features):
    """Against measuring each in turn: the sum of the variances of all that is not measured."""
    surrogate = Surrogate(features)
    known, rows, pending = list(range(8)), np.arange(8, 36), [36, 37]
    surrogate.fit(known, np.sin(np.arange(8.0)))
    chosen = telling_row(surrogate, rows, np.zeros(28), pending, np.random.default_rng(0))
    left = []
    for row in rows:
        seen = [*known, *pending, int(row)]
        left.append((surrogate.fitted_to(seen, np.zeros(len(seen))).predict(rows)[1] ** 2).sum())
    assert chosen == rows[int(np.argmin(left))] and np.ptp(left) > 0.1
    costly = np.where(rows == chosen, -9.0, 0.0)
    assert telling_row(surrogate, rows, costly, pending, np.random.default_rng(0)) != chosen


def test_as_many_are_expected_above_the_border_as_wanted():
    rng = np.random.default_rng(0)
    mean, deviation, z = rng.standard_normal(500), rng.uniform(0.1, 1, 500), rng.standard_normal(40)
    level = border(mean, deviation, z, 12.0)
    drawn = mean + deviation * rng.standard_normal((2000, 500))
    assert (drawn > level).sum(1).mean() + (z > level).sum() == pytest.approx(12, abs=0.7)  # z makes steps


def test_scales_by_range_set_rare_columns_no_further_apart():
    values = np.zeros((100, 2))
    values[:2, 0], values[:, 1] = 0.3, np.linspace(0, 1, 100)
    by_range, by_deviation = (np.ptp(Scale.of(values, by=by).apply(values), 0) for by in ("range", "deviation"))
    assert by_range == pytest.approx([2, 2]) and by_deviation[0] > 2 * by_deviation[1]


def test_scales_leave_out_constants_and_fill_gaps():
    scale = Scale.of(np.array([[1.0, 7.0, np.nan], [3.0, 7.0, 2.0], [5.0, 7.0, 4.0]]))
    np.testing.assert_allclose(scale.apply(np.array([[3.0, 9.0, np.nan]])), [[0.0, 0.0]])
