"""Numbers as laboratories write them: with units, with bounds, with nothing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "-", "–", "?"})
LARGEST = 1e100  # beyond which squares and their sums leave what a computer's numbers hold
_NUMBER = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\s*([^\d\s.,;+\-][^;]*))?$")


def split(text: str) -> tuple[float, str]:
    """The number and the unit behind it, or a `ValueError` that says what else it is.

    Examples
    --------
    >>> split("3.2 mS/cm"), split("-1e-3")
    ((3.2, 'mS/cm'), (-0.001, ''))
    >>> split("<1E-10")
    Traceback (most recent call last):
    ...
    ValueError: '<1E-10' is a bound, expected a number
    """
    shown = text.strip().replace("−", "-")
    if shown[:1] in ("<", ">", "≤", "≥", "~", "≈"):
        kind = "a bound" if shown[0] in "<>≤≥" else "an estimate"
        raise ValueError(f"{text.strip()!r} is {kind}, expected a number")
    found = _NUMBER.match(shown)
    if not found:
        raise ValueError(f"{text.strip()!r} is not a number")
    number = float(found.group(1))
    if not math.isfinite(number):
        raise ValueError(f"{text.strip()!r} is not finite, expected a number")
    return number, (found.group(2) or "").strip()


def missing(text: str | None) -> bool:
    """Whether a cell stands for no value.

    Examples
    --------
    >>> missing(" n/a "), missing("0")
    (True, False)
    """
    return text is None or text.strip().lower() in MISSING


def common_unit(texts: Iterable[str | None]) -> str:
    """The unit most of a column's numbers carry, '' where it is none.

    Examples
    --------
    >>> common_unit(["1 eV", "2 eV", "300 meV", "", "<3"])
    'eV'
    """
    units: Counter[str] = Counter()
    for text in texts:
        if text is None or missing(text):
            continue
        try:
            units[split(text)[1]] += 1
        except ValueError:
            continue
    return units.most_common(1)[0][0] if units else ""


def number(text: str, unit: str) -> float:
    """A number in the column's unit, or a `ValueError` that says what is wrong.

    Examples
    --------
    >>> number("300 meV", "eV")
    Traceback (most recent call last):
    ...
    ValueError: '300 meV' is in meV, expected eV as most rows
    """
    value, found = split(text)
    if found != unit:
        raise ValueError(
            f"{text.strip()!r} is {f'in {found}' if found else 'without a unit'}, expected "
            f"{unit or 'a number without a unit'} as most rows"
        )
    if abs(value) > LARGEST:
        raise ValueError(f"{text.strip()!r} is beyond {LARGEST:g}; give smaller numbers, in another unit")
    return value
