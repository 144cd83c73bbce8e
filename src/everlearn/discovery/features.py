"""What a candidate looks like to a surrogate: named blocks of numbers, each compared by its own kernel.

Letters: N candidates, D features of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """One view of the candidates.

    Parameters
    ----------
    kind : {"tanimoto", "matern"}
        Which kernel compares two rows: Tanimoto for sets (0/1), Matérn 5/2 for standardised numbers.
    values : ndarray
        ``[N, D]``.
    lengths : bool
        Whether each column has a length of its own, fitted to what is measured: for few columns that mean something by
        themselves, such as temperature or an ingredient's share.
    """

    kind: Literal["tanimoto", "matern"]
    values: Array
    lengths: bool = False


@dataclass(frozen=True)
class Features:
    """All views of N candidates, in a fixed order.

    Examples
    --------
    >>> features = Features((Block("matern", np.zeros((3, 2))), Block("tanimoto", np.ones((3, 5)))))
    >>> len(features), features.rows([0, 2]).table().shape
    (3, (2, 7))
    """

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks[0].values)

    def rows(self, index: Sequence[int] | NDArray[np.integer]) -> Features:
        """Some of the candidates."""
        return Features(
            tuple(replace(block, values=block.values[np.asarray(index, dtype=int)]) for block in self.blocks)
        )

    def table(self, most: int | None = None) -> Array:
        """``[N, ΣD]``: the blocks beside each other, for forests; of each at most the first ``most`` columns."""
        return np.hstack([block.values[:, :most] for block in self.blocks])


@dataclass(frozen=True)
class Scale:
    """Mean and spread of each column of a pool, so that candidates that come later are scaled alike.

    Examples
    --------
    >>> scale = Scale.of(np.array([[0.0, 5.0], [2.0, 5.0]]))
    >>> scale.apply(np.array([[1.0, 5.0], [2.0, 5.0]]))
    array([[0.],
           [1.]])
    """

    mean: Array
    spread: Array
    keep: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Array, by: Literal["deviation", "range"] = "deviation") -> Scale:
        """Learn it from a pool ``[N, D]``; constant columns are left out, missing numbers are set to the mean.

        By the range, a column that is 0 in most rows, such as a rare solvent's share, sets the rows that have it no
        further apart than any other column does; by the deviation it would.
        """
        finite = np.where(np.isfinite(values), values, np.nan)
        known = np.isfinite(finite).sum(0)
        total = np.nansum(finite, 0)
        mean = np.divide(total, known, out=np.zeros(values.shape[1]), where=known > 0)
        deviation = np.where(np.isfinite(finite), finite - mean, 0.0)
        spread = np.sqrt((deviation**2).mean(0))
        keep = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
        if by == "range":
            spread = (np.nanmax(np.where(keep, finite, 0), 0) - np.nanmin(np.where(keep, finite, 0), 0)) / 2
        return cls(mean, np.where(keep, spread, 1.0), keep)

    def apply(self, values: Array) -> Array:
        """Standardise ``[n, D]``; more than ten spreads from the mean counts as ten."""
        z = (values - self.mean) / self.spread
        return np.clip(np.where(np.isfinite(z), z, 0.0), -10, 10)[:, self.keep]
