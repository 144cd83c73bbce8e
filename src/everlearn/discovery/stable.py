"""Proposing crystals that hold: the best are relaxed and judged, and replaced if they would fall apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everlearn.discovery import compositions
from everlearn.discovery.entries import Entries
from everlearn.discovery.pool import Pool
from everlearn.discovery.proposal import Proposal
from everlearn.discovery.search import Search
from everlearn.discovery.stability import Relaxed, element, relax, stability_of
from everlearn.discovery.structures import load, prototype

_PHASES = 24  # other structures of the same elements that are relaxed for a hull, at most
_MOST = 5  # batches' worth of candidates that are judged for one batch


class Judge:
    """Judges candidates of a pool, each once; what it relaxes is kept in the journal."""

    def __init__(self, entries: Entries, pool: Pool, limit: float) -> None:
        self.entries, self.pool, self.limit = entries, pool, limit

    def propose(self, search: Callable[[], Search], n: int) -> list[Proposal]:
        """The next n candidates that are stable or have no structure to tell; ``search`` leaves the refused out."""
        judged = set(self.entries.judged())
        left = _MOST * n
        while True:
            proposals = search().propose(n)
            fresh = [each for each in proposals if each.candidate not in judged and self.structure(each.candidate)]
            if not fresh:
                return proposals
            if left <= 0:
                return [each for each in proposals if each not in fresh]
            for each in fresh[:left]:
                self.judge(each.candidate)
                judged.add(each.candidate)
                left -= 1

    def structure(self, name: str) -> str:
        """JSON of the candidate's own structure, or of a prototype's for one that no table lists; else empty."""
        candidate = next(each for each in self.pool.candidates if each.name == name)
        text = candidate.cells.get(self.pool.structures or "", "")
        return text or prototype(candidate.text, [(text, structure) for _, text, structure in self._listed()])

    def judge(self, name: str) -> None:
        """Relax a candidate and what it could fall apart into, and enter what was found."""
        text = self.structure(name)
        own = self._relaxed(name, load(text, Path()))
        symbols = set(compositions.read(own.formula))
        near = [each for each in self._listed() if each[0] != name and set(compositions.read(each[1])) <= symbols]
        phases = [self._relaxed(other, load(structure, Path())) for other, _, structure in near[:_PHASES]]
        listed = {phase.formula.rstrip("0123456789") for phase in phases}
        for symbol in sorted(symbols - listed):
            structure = element(symbol)
            phases += [] if structure is None else [self._relaxed(f"element {symbol}", structure)]
        self.entries.judge(name, asdict(stability_of(own, phases)))

    def _relaxed(self, name: str, structure: Any) -> Relaxed:
        """What was relaxed under this name before; else it is relaxed now."""
        kept = self.entries.relaxations().get(name)
        if kept is not None:
            return Relaxed(**kept)
        found = relax(structure)
        self.entries.relaxed(name, asdict(found))
        return found

    def _listed(self) -> list[tuple[str, str, str]]:
        """Name, formula and structure of each candidate that has one, the measured first."""
        known = {each.candidate for each in self.pool.measured}
        column = self.pool.structures or ""
        listed = [(c.name, c.text, c.cells[column]) for c in self.pool.candidates if c.cells.get(column, "").strip()]
        return sorted(listed, key=lambda each: each[0] not in known)
