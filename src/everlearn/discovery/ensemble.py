"""What a campaign expects: the mean of a Gaussian process and a random forest, whose errors differ.

The process says how sure it is and what is near what; the forest (Breiman 2001, *Random forests*, Machine Learning 45)
finds thresholds and interactions among many columns that a stationary kernel smooths over. Leaving one out costs
nothing in either: in closed form in the process, by the trees that did not see the row in the forest.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from everlearn.discovery.features import Array, Features, Rows
from everlearn.discovery.surrogate import Surrogate

_TREES = 100
_COLUMNS = 2000  # of a block of features that the forest sees, the most frequent environments first
_SHARE = 1 / 3  # of the columns that each split looks at
FOREST = 0.5
"""The forest's weight in the mean."""


class Ensemble:
    """A Gaussian process and a forest over a pool.

    Parameters
    ----------
    process : Surrogate
        Fitted.
    table : ndarray
        ``[N, D]``, the pool's features for the forest (`forest_table`).
    rows, z, repeats : ndarray
        What is measured, as in `Surrogate.fit`.
    seed : int
        Of the forest.

    Examples
    --------
    >>> from everlearn.discovery.features import Block
    >>> line = Features((Block("matern", np.linspace(-2, 2, 9)[:, None]),))
    >>> process = Surrogate(line)
    >>> rows, z = np.array([0, 2, 4, 8]), np.array([0.0, 0.5, 1.0, 0.0])
    >>> process.fit(rows, z)
    >>> mean, deviation = Ensemble(process, forest_table(line), rows, z).predict([4, 6])
    >>> bool(mean[0] > mean[1]), bool(deviation[0] < deviation[1])
    (True, True)
    """

    def __init__(
        self, process: Surrogate, table: Array, rows: Rows, z: Array, repeats: Array | None = None, seed: int = 0
    ) -> None:
        self.process = process
        self._table, self._rows, self._z, self._repeats, self._seed = table, np.asarray(rows), z, repeats, seed
        self.forest = _forest(table[self._rows], z, repeats, seed)

    def predict(self, rows: list[int] | Rows, features: Features | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation ``[m]`` of z without noise, of pool rows or of rows of other features."""
        mean, deviation = self.process.predict(rows, features)
        if not len(mean):
            return mean, deviation
        table = self._table if features is None else forest_table(features)
        return (1 - FOREST) * mean + FOREST * self.forest.predict(table[np.asarray(rows)]), deviation

    def leave_one_out(self) -> tuple[Array, Array]:
        """Mean and standard deviation, noise included, of each measured value from all others."""
        mean, deviation = self.process.leave_one_out()
        return (1 - FOREST) * mean + FOREST * self.forest.oob_prediction_, deviation

    def without(self, places: Rows, asked: list[int] | Rows) -> Array:
        """Means ``[m]`` of pool rows, learned without some of the measured (by their place), parameters as they are."""
        keep = np.setdiff1d(np.arange(len(self._rows)), places)
        times = None if self._repeats is None else self._repeats[keep]
        process = self.process.fitted_to(self._rows[keep], self._z[keep], times)
        return Ensemble(process, self._table, self._rows[keep], self._z[keep], times, self._seed).predict(asked)[0]

    def covariance(self, rows: list[int] | Rows) -> Array:
        """Posterior covariance ``[m, m]`` between pool rows, the process's."""
        return self.process.covariance(rows)

    def similarity(self, rows: list[int] | Rows, others: list[int] | Rows) -> Array:
        """Correlation before any measurement, ``[m, n]``, the process's."""
        return self.process.similarity(rows, others)

    @property
    def noise(self) -> float:
        """Variance of one measurement."""
        return self.process.noise


def forest_table(features: Features) -> Array:
    """Features as the forest sees them."""
    return np.asarray(features.table(_COLUMNS), dtype=np.float32)


def _forest(x: Array, z: Array, repeats: Array | None, seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(_TREES, max_features=_SHARE, oob_score=True, random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the share explained, which few rows do not give
        return forest.fit(x, z, sample_weight=repeats)
