"""Names in the order a person expects: class2 before class10."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"(\d+)")
_NOT_TEXT = re.compile("[\ud800-\udfff]")  # as Python keeps bytes of names that are no UTF-8


def natural_key(name: str) -> tuple[tuple[int | str, ...], str]:
    """Sort key by which numbers within names count as numbers.

    Examples
    --------
    >>> sorted(["class10", "Class2", "class1"], key=natural_key)
    ['class1', 'Class2', 'class10']
    """
    parts = _NUMBER.split(name.casefold())  # text and numbers take turns, so that like meets like
    return tuple(int(part) if i % 2 and part.isdecimal() else part for i, part in enumerate(parts)), name


def writable(text: str) -> str:
    """Text that can be written anywhere: what is no UTF-8 in a file's name becomes �.

    Examples
    --------
    >>> writable(b"caf\\xe9.png".decode(errors="surrogateescape"))
    'caf�.png'
    """
    return _NOT_TEXT.sub("\ufffd", text)


def classes_of(labels: Sequence[str] | Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in natural order, and each label's position among them.

    Examples
    --------
    >>> classes_of(["b", "a", "b"])
    (('a', 'b'), array([1, 0, 1]))
    """
    labels = list(labels)
    names = tuple(sorted(set(labels), key=natural_key))
    position = {name: i for i, name in enumerate(names)}
    return names, np.array([position[label] for label in labels], dtype=np.int64)
