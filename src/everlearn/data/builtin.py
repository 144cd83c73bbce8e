"""Sets that come with a package Everlearn needs anyway: no file, no network."""

from __future__ import annotations

import numpy as np

from everlearn.data.holdout import hold_out
from everlearn.data.pictures import Arrays, Listing
from everlearn.errors import DataError


def list_builtin(name: str) -> Listing:
    """List ``digits``: scikit-learn's 1 797 handwritten digits of 8 × 8 pixels, a fifth of each class held out.

    The values 0..16 are scaled to 0..255; which samples are held out never changes.

    Examples
    --------
    >>> listing = list_builtin("digits")
    >>> len(listing), listing.class_names[:3], int((listing.split == 1).sum())
    (1797, ('0', '1', '2'), 359)
    """
    if name != "digits":
        raise DataError(f"there is no builtin:{name}; expected builtin:digits")
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    return Listing(
        name="builtin:digits",
        pictures=Arrays((pixels,)),
        names=[f"digits[{i}]" for i in range(len(labels))],
        labels=labels,
        class_names=tuple(str(digit) for digit in range(10)),
        split=hold_out(labels, 0.2, seed=0).astype(np.int8),
    )
