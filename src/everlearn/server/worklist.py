"""The worklist: which cases to look at first, by doubt or by novelty, kept up to date behind the scenes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import torch

from everlearn.errors import DataError
from everlearn.runs.reviews import Reviews
from everlearn.server.background import step_back
from everlearn.server.cases import Case, Cases
from everlearn.server.served import Service

ORDERS = ("doubt", "novelty", "arrival")
_CHUNK = 16
_REST = 4  # times as long as it scored, a scorer rests


@dataclass(frozen=True)
class Score:
    """What a version says of a case: the class, its probability, one less the lead over the next, and novelty."""

    version: int
    label: str
    probability: float
    doubt: float
    novelty: float


@dataclass(frozen=True)
class Entry:
    """A line of the worklist; ``review`` is the last verdict's status, ``score`` None until it is computed."""

    case: Case
    score: Score | None
    verdict: str | None
    label: str | None


class Worklist:
    """Cases with their scores.

    Scores are computed by a thread of low urgency, anew for every version that comes into service.
    """

    def __init__(self, cases: Cases, service: Service, reviews: Reviews) -> None:
        self.cases, self.service, self.reviews = cases, service, reviews
        self.unreadable: dict[str, str] = {}
        self._scores: dict[str, Score] = {}
        self._news, self._stop = threading.Event(), threading.Event()
        service.on_change.append(self._news.set)
        self._news.set()
        self._scorer = threading.Thread(target=self._work, daemon=True)
        self._scorer.start()

    def entries(self, order: str = "doubt", pending: bool = True) -> list[Entry]:
        """Cases in order; with ``pending`` only those nobody has decided."""
        if order not in ORDERS:
            raise DataError(f"order is {order!r}; expected {', '.join(ORDERS)}")
        verdicts = self._verdicts()
        found = []
        for case in self.cases.all():
            verdict, label = verdicts.get(case.id, (None, None))
            if case.id in self.unreadable or (pending and verdict not in (None, "unsure")):
                continue
            found.append(Entry(case, self._scores.get(case.id), verdict, label))
        if order != "arrival":
            found.sort(key=lambda e: -getattr(e.score, order) if e.score else 1.0)
        return found

    def next_after(self, id_: str, order: str = "doubt") -> str | None:
        """The first open case that is not this one."""
        return next(
            (entry.case.id for entry in self.entries(order) if entry.case.id != id_ and entry.verdict is None), None
        )

    def score(self, case: Case) -> Score:
        """Score one case now."""
        return self._score([case])[case.id]

    def tell(self) -> None:
        """New cases have come."""
        self._news.set()

    def stop(self) -> None:
        """Stop scoring."""
        self._stop.set()
        self._news.set()

    def _verdicts(self) -> dict[str, tuple[str, str | None]]:
        rows = self.reviews.rows(
            "SELECT r.case_id, r.verdict, c.name FROM reviews r LEFT JOIN classes c ON c.code = r.code "
            "WHERE r.status NOT IN ('withdrawn', 'forgotten') ORDER BY r.number"
        )
        return {row["case_id"]: (row["verdict"], row["name"]) for row in rows}

    def _work(self) -> None:
        step_back()
        while not self._stop.is_set():
            self._news.wait()
            self._news.clear()
            cases, took = [entry.case for entry in self.entries("doubt")], 0.0
            for start in range(0, len(cases), _CHUNK):  # to the end: versions may come quickly
                rests = _REST if all(case.id in self._scores for case in cases[start : start + _CHUNK]) else 0.1
                if self._stop.wait(rests * took):
                    break
                begun = time.perf_counter()
                self._scores |= self._score(cases[start : start + _CHUNK])
                took = time.perf_counter() - begun

    def _score(self, cases: list[Case]) -> dict[str, Score]:
        pictures, kept = [], []
        for case in cases:
            try:
                pictures.append(self.cases.picture(case.id))
                kept.append(case)
            except DataError as error:
                self.unreadable[case.id] = str(error)
        if not kept:
            return {}
        inputs = torch.stack(pictures)
        served, probabilities = self.service.current, self.service.current.probabilities(inputs)
        top = probabilities.topk(min(2, probabilities.shape[1]), dim=1)
        lead = top.values[:, 0] - (top.values[:, 1] if top.values.shape[1] > 1 else 0)
        novelty = self.service.novelty(served, inputs)
        return {
            case.id: Score(served.number, served.classes[int(i)], float(p), 1 - float(d), float(n))
            for case, i, p, d, n in zip(kept, top.indices[:, 0], top.values[:, 0], lead, novelty)
        }
