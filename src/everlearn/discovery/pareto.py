"""Several targets: one number that weighs them, and what nothing beats in all of them.

Knowles 2006, *ParEGO: a hybrid algorithm with on-line landscape approximation for expensive multiobjective optimization
problems*, IEEE Transactions on Evolutionary Computation 10(1).
"""

from __future__ import annotations

import numpy as np

from everlearn.discovery.features import Array

_RHO = 0.05


def weighed(z: Array, weights: Array) -> Array:
    """min_j λ_j (z_j − max z_j) + ρ Σ_j λ_j z_j: augmented Chebyshev, of scores ``[n, targets]``; larger is better.

    Examples
    --------
    >>> int(weighed(np.array([[1.0, 0.0], [0.6, 0.6], [0.0, 1.0]]), np.array([0.5, 0.5])).argmax())
    1
    """
    return np.asarray((weights * (z - z.max(0))).min(1) + _RHO * (weights * z).sum(1))


def undominated(table: Array) -> list[int]:
    """Rows that no other row beats, where larger is better in each column.

    Examples
    --------
    >>> undominated(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]))
    [0, 1]
    """
    beaten = [bool(((table >= each).all(1) & (table > each).any(1)).any()) for each in table]
    return [i for i, lost in enumerate(beaten) if not lost]
