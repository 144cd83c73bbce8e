"""Why a candidate is proposed: the parts it rests on, the measured candidates that speak for and against, the check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from everlearn.discovery.masks import Part


@dataclass(frozen=True)
class Effect:
    """A part and what the expectation loses without it, in normal scores; positive: it makes the candidate better."""

    part: Part
    effect: float
    value: float  # the expected value without it, in the target's unit
    random: float  # how much the expectation changes without as much at random, on average


@dataclass(frozen=True)
class Case:
    """A measured candidate and its Shapley value for this expectation."""

    name: str
    text: str
    value: float
    shapley: float
    similarity: float


@dataclass(frozen=True)
class Check:
    """What taking out the named ones changes, beside as much at random, and what that allows to be said."""

    named: float
    random: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Reason:
    """Why one candidate is proposed.

    Attributes
    ----------
    effects : list of Effect
        Parts, those first that help most beyond what as much at random changes.
    cases_for, cases_against : list of Case
    parts_check, cases_check : Check or None
        None where there is nothing to take out.
    weights : list of float
        Of each atom, −1 to 1; empty for other candidates.
    words : str
    """

    effects: list[Effect] = field(default_factory=list)
    cases_for: list[Case] = field(default_factory=list)
    cases_against: list[Case] = field(default_factory=list)
    parts_check: Check | None = None
    cases_check: Check | None = None
    weights: list[float] = field(default_factory=list)
    words: str = ""

    def summary(self) -> dict[str, Any]:
        """For machines."""
        return {
            "words": self.words,
            "parts": [{"name": e.part.name, "without": e.value, "effect": e.effect} for e in self.effects],
            "for": [{"candidate": c.name, "value": c.value, "shapley": c.shapley} for c in self.cases_for],
            "against": [{"candidate": c.name, "value": c.value, "shapley": c.shapley} for c in self.cases_against],
            "parts_verdict": self.parts_check.verdict if self.parts_check else None,
            "cases_verdict": self.cases_check.verdict if self.cases_check else None,
        }
