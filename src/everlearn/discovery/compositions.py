"""Compositions by pymatgen and matminer's Magpie table: reading formulas, fractions, statistics over the elements.

Ward et al. 2016, *A general-purpose machine learning framework for predicting properties of inorganic materials*,
npj Computational Materials 2, 16028.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from everlearn.discovery.features import Array, Block, Features, Scale
from everlearn.discovery.needs import need

_TINY = 1e-6


def read(text: str) -> dict[str, float]:
    """Amounts of the elements, or a `ValueError` that says in one line what is wrong.

    Examples
    --------
    >>> read("LiFePO4")
    {'Li': 1.0, 'Fe': 1.0, 'P': 1.0, 'O': 4.0}
    >>> read("LiXx2")
    Traceback (most recent call last):
    ...
    ValueError: invalid formula 'LiXx2'
    """
    core = need("pymatgen.core")
    try:
        amounts = {str(symbol): float(n) for symbol, n in core.Composition(text.strip()).get_el_amt_dict().items()}
    except Exception as error:  # pymatgen raises several kinds, ValueError and KeyError among them
        raise ValueError(f"invalid formula {text!r}") from error
    amounts = {symbol: n for symbol, n in amounts.items() if n > _TINY}
    if not amounts or any(symbol not in _index() for symbol in amounts):
        raise ValueError(f"invalid formula {text!r}")
    return amounts


def canonical(text: str) -> str:
    """Fractions of the elements in the order of their symbols: the same text for the same composition.

    Examples
    --------
    >>> canonical("Fe2O3") == canonical("O3Fe2") == canonical("Fe4O6")
    True
    """
    amounts = read(text)
    total = sum(amounts.values())
    return " ".join(f"{symbol}{amounts[symbol] / total:.5f}" for symbol in sorted(amounts))


def fractions(compositions: Sequence[Mapping[str, float]]) -> Array:
    """``[N, elements]``: each row sums to one."""
    index = _index()
    rows = np.zeros((len(compositions), len(index)))
    for row, amounts in enumerate(compositions):
        for symbol, n in amounts.items():
            rows[row, index[symbol]] = n
    return rows / rows.sum(1, keepdims=True).clip(min=1e-12)


def statistics(x_NE: Array) -> Array:
    """Mean, deviation, smallest, largest, range of each elemental property, and norms of the fractions: ``[N, S]``."""
    p_EP = _properties()
    mean = x_NE @ p_EP
    deviation, low, high = (np.zeros_like(mean) for _ in range(3))
    present = x_NE > 0
    for j in range(p_EP.shape[1]):
        column = p_EP[:, j]
        deviation[:, j] = (x_NE * np.abs(column[None] - mean[:, j : j + 1])).sum(1)
        low[:, j] = np.where(present, column[None], np.inf).min(1)
        high[:, j] = np.where(present, column[None], -np.inf).max(1)
    entropy = -(x_NE * np.log(x_NE.clip(min=1e-12))).sum(1)
    norms = np.stack([present.sum(1), np.sqrt((x_NE**2).sum(1)), x_NE.max(1), entropy], 1)
    return np.hstack([mean, deviation, low, high, high - low, norms])


class CompositionFeaturiser:
    """Turn formulas into features, scaled as the pool it was made of.

    Examples
    --------
    >>> featuriser = CompositionFeaturiser(["NaCl", "MgO", "Fe2O3"])
    >>> len(featuriser(["KCl", "CaO"]))
    2
    """

    def __init__(self, pool: Sequence[str]) -> None:
        x_NE = fractions([read(text) for text in pool])
        self._present = (x_NE > 0).any(0)
        self._scale = Scale.of(statistics(x_NE))
        self.pool = self._features(x_NE)

    def __call__(self, texts: Sequence[str]) -> Features:
        """Features of other formulas."""
        return self.of_amounts([read(text) for text in texts])

    def of_amounts(self, compositions: Sequence[Mapping[str, float]]) -> Features:
        """Features of amounts of elements."""
        return self._features(fractions(compositions))

    def _features(self, x_NE: Array) -> Features:
        # √fraction gives traces, such as dopants, a say; the norm of a row is one
        root = np.sqrt(x_NE[:, self._present])
        return Features((Block("matern", 5 * root), Block("matern", self._scale.apply(statistics(x_NE)))))


@cache
def _elements() -> tuple[str, ...]:
    return tuple(element.symbol for element in need("pymatgen.core").Element if element.Z <= 103)


@cache
def _index() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(dict.fromkeys(_elements()))}


@cache
def _properties() -> Array:
    """``[elements, properties]`` of Magpie; a missing one is the mean of those known."""
    element = need("pymatgen.core").Element
    table = need("matminer.utils.data").MagpieData(impute_nan=False)
    names = need("matminer.featurizers.composition").ElementProperty.from_preset("magpie").features
    values = np.array(
        [[table.get_elemental_property(element(symbol), name) for name in names] for symbol in _index()], dtype=float
    )
    return np.where(np.isfinite(values), values, np.nanmean(values, 0))
