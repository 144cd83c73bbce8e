"""The mean of a process and a forest."""

import numpy as np
import pytest

from everlearn.discovery.ensemble import Ensemble, forest_table
from everlearn.discovery.features import Block, Features
from everlearn.discovery.surrogate import Surrogate


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 6))
    z = np.where((x[:, 0] > 0.2) & (x[:, 1] < 0.1), 1.5, -0.5) + 0.05 * rng.standard_normal(300)
    features = Features((Block("matern", x),))
    process = Surrogate(features)
    process.fit(np.arange(80), z[:80])
    return process, features, z, Ensemble(process, forest_table(features), np.arange(80), z[:80])


def test_it_is_the_mean_of_both_and_better_where_there_are_thresholds(made):
    process, features, z, ensemble = made
    rows = np.arange(80, 300)
    mean, deviation = ensemble.predict(rows)
    smooth, spread = process.predict(rows)
    trees = ensemble.forest.predict(features.blocks[0].values[rows].astype(np.float32))
    np.testing.assert_allclose(mean, (smooth + trees) / 2)
    assert (deviation == spread).all()
    assert np.abs(mean - z[rows]).mean() < np.abs(smooth - z[rows]).mean()
    np.testing.assert_allclose(ensemble.predict([0, 1], features.rows(rows[:2]))[0], mean[:2])


def test_left_out_rows_are_foreseen_as_unseen_ones_are(made):
    _, _, z, ensemble = made
    left_out, _ = ensemble.leave_one_out()
    unseen = np.abs(ensemble.predict(np.arange(80, 300))[0] - z[80:]).mean()
    assert np.abs(left_out - z[:80]).mean() == pytest.approx(unseen, rel=0.3)
    assert np.abs(ensemble.predict(np.arange(80))[0] - z[:80]).mean() < 0.7 * unseen


def test_learning_without_some_is_never_having_seen_them(made):
    process, features, z, ensemble = made
    places = np.array([3, 7, 11])
    keep = np.setdiff1d(np.arange(80), places)
    other = Ensemble(process.fitted_to(keep, z[keep]), forest_table(features), keep, z[keep])
    np.testing.assert_allclose(ensemble.without(places, [100, 101]), other.predict([100, 101])[0])
    np.testing.assert_allclose(process.predict([100])[0], ensemble.process.predict([100])[0])
