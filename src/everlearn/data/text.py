"""Texts as samples: UTF-8 bytes, padded with zeros to one length for all of a run.

In this shape, ``[1, 1, B]`` uint8, a text travels in batches, rests in memory and comes back from a checkpoint as a
picture does; what a model makes of the bytes is the model's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from everlearn.data.decode import Shape
from everlearn.errors import DataError

LONGEST = 1024
"""Bytes of a text that are kept where nobody says; sentence encoders read about as much."""


@dataclass(frozen=True)
class Texts:
    """Texts held in memory, with a name for each that a person can look up.

    Examples
    --------
    >>> texts = Texts(["a striker scores", ""], ["row 1", "row 2"])
    >>> texts.length, to_text(texts.read(0, (1, 1, 32)))
    (32, 'a striker scores')
    """

    texts: Sequence[str] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    in_memory: bool = True

    @property
    def length(self) -> int:
        """Bytes of the longest, rounded up to 32, at most `LONGEST`."""
        longest = max((len(text.encode()) for text in self.texts), default=1)
        return min(LONGEST, -(-max(1, longest) // 32) * 32)

    def read(self, i: int, shape: Shape) -> NDArray[np.uint8]:
        """Text i as bytes ``[1, 1, B]``; an empty one cannot be read."""
        if not self.texts[i].strip():
            raise DataError(f"{self.names[i]} has no text")
        return to_bytes(self.texts[i], shape[2])

    def select(self, indices: NDArray[np.int64]) -> Texts:
        """The texts at the given positions."""
        return replace(self, texts=[self.texts[i] for i in indices], names=[self.names[i] for i in indices])


def to_bytes(text: str, length: int) -> NDArray[np.uint8]:
    """A text as ``[1, 1, length]`` uint8; what is longer is cut between two characters.

    Examples
    --------
    >>> to_bytes("배터리", 8).flatten().tolist()  # three bytes a character: the third does not fit
    [235, 176, 176, 237, 132, 176, 0, 0]
    """
    raw = text.replace("\0", " ").strip().encode()
    raw = raw[:length].decode(errors="ignore").encode()
    out = np.zeros((1, 1, length), dtype=np.uint8)
    out[0, 0, : len(raw)] = np.frombuffer(raw, np.uint8)
    return out


def to_text(sample: NDArray[np.uint8]) -> str:
    """What `to_bytes` was given, as far as it was kept.

    Examples
    --------
    >>> to_text(to_bytes("배터리", 32))
    '배터리'
    """
    return bytes(sample.reshape(-1).tolist()).rstrip(b"\0").decode(errors="replace")
