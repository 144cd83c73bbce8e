"""What is expected of a candidate, and a candidate that is proposed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outlook:
    """What is expected of a candidate for one target: median and 80 % interval, in the target's own unit."""

    value: float
    low: float
    high: float
    z: float
    deviation: float


@dataclass(frozen=True)
class Proposal:
    """A candidate to measure next.

    Attributes
    ----------
    candidate, text : str
        Its name, and its SMILES, formula or values.
    row : int
        Its place in the pool.
    outlook : dict
        What is expected, by target; empty while nothing can be learned yet.
    chance : float or None
        Probability that it beats the best measured one (of the first target).
    why : str
        ``"spread"`` while nothing is learned, ``"improve"`` after, ``"learn"`` of one chosen for what it tells of the
        pool.
    """

    candidate: str
    text: str
    row: int
    outlook: dict[str, Outlook]
    chance: float | None
    why: str
