"""Between a target's unit and the scale that is learned on: normal scores of what is measured, larger is better."""

from __future__ import annotations

import numpy as np

from everlearn.discovery.acquisition import normal_scores
from everlearn.discovery.features import Array


class Scores:
    """The measured values of a target as scores.

    Parameters
    ----------
    values : ndarray
        ``[n]``, in the target's unit; of two different numbers at least.
    sign : float
        1 where large values are wanted, −1 where small ones are.

    Examples
    --------
    >>> scores = Scores(np.array([3.0, 1.0, 2.0]), -1.0)
    >>> scores.z.round(2), scores.units(scores.z)
    (array([-0.97,  0.97,  0.  ]), array([3., 1., 2.]))
    """

    def __init__(self, values: Array, sign: float) -> None:
        self.sign = sign
        self._signed = sign * values
        self.z = normal_scores(self._signed)

    def units(self, z: Array) -> Array:
        """Scores in the target's unit; beyond the measured ones, straight on."""
        known_z, index = np.unique(self.z, return_index=True)
        known = self._signed[index]
        inside = np.interp(z, known_z, known)
        quarter = max(1, len(known) // 4)
        up = (known[-1] - known[-1 - quarter]) / (known_z[-1] - known_z[-1 - quarter])
        down = (known[quarter] - known[0]) / (known_z[quarter] - known_z[0])
        beyond = up * np.maximum(z - known_z[-1], 0) + down * np.minimum(z - known_z[0], 0)
        return np.asarray(self.sign * (inside + beyond))

    def of(self, bound: float) -> float:
        """The score of a bound in the target's unit."""
        order = np.argsort(self._signed)
        return float(np.interp(self.sign * bound, self._signed[order], self.z[order], left=-3.0, right=3.0))
