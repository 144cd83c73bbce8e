"""The worklist: which cases to look at first, by doubt or by novelty, kept up to date behind the scenes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from everlearn.data.naming import writable
from everlearn.errors import DataError
from everlearn.runs.reviews import Reviews
from everlearn.server.cases import Case, Cases
from everlearn.server.served import Served, Service

ORDERS = ("doubt", "novelty", "arrival")
_PIECE = 4  # cases scored at once
_RETRY = 2.0


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

    Scores are computed behind the scenes, in pieces between predictions, anew for every version in service.
    """

    def __init__(self, cases: Cases, service: Service, reviews: Reviews) -> None:
        self.cases, self.service, self.reviews = cases, service, reviews
        self.unreadable: dict[str, str] = {}
        self.fault: str | None = None
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
        found = self._score(self.service.current, [case])
        if case.id not in found:
            raise DataError(self.unreadable[case.id])
        return found[case.id]

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
            "WHERE r.number IN (SELECT MAX(number) FROM reviews WHERE status NOT IN ('withdrawn', 'forgotten') "
            "GROUP BY case_id)"
        )
        return {row["case_id"]: (row["verdict"], row["name"]) for row in rows}

    def _work(self) -> None:
        while not self._stop.is_set():
            self._news.wait()
            self._news.clear()
            try:
                self._score_all()
                self.fault = None
            except Exception as error:  # whatever it is, the scores there are go on being shown, and the page says so
                self.fault = " ".join(str(error).split())
                self._stop.wait(_RETRY)
                self._news.set()

    def _score_all(self) -> None:
        served, cases = self.service.current, [entry.case for entry in self.entries("doubt")]
        for start in range(0, len(cases), _PIECE):  # to the end: versions may come quickly
            self.service.wait_for_calm()
            if self._stop.is_set():
                return
            self._scores |= self._score(served, cases[start : start + _PIECE], patient=True)

    def _score(self, served: Served, cases: list[Case], *, patient: bool = False) -> dict[str, Score]:
        pictures, kept = [], []
        for case in cases:
            try:
                pictures.append(self.cases.picture(case.id))
                kept.append(case)
            except DataError as error:
                self.unreadable[case.id] = writable(str(error))
        if not kept:
            return {}
        inputs = torch.stack(pictures)
        novelty = self.service.novelty(served, inputs, patient=patient)
        probabilities = served.probabilities(inputs)
        top = probabilities.topk(min(2, probabilities.shape[1]), dim=1)
        lead = top.values[:, 0] - (top.values[:, 1] if top.values.shape[1] > 1 else 0)
        return {
            case.id: Score(served.number, served.classes[int(i)], float(p), 1 - float(d), float(n))
            for case, i, p, d, n in zip(kept, top.indices[:, 0], top.values[:, 0], lead, novelty)
        }
