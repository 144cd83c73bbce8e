"""What a campaign's journal holds: results told, decisions on candidates, neighbours listed, batches proposed.

Each entry is one transaction, on disk when its method returns. Threads take turns.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.discovery.pool import Aside, Measurement
from everlearn.errors import NotFoundError, RunError, SettingError
from everlearn.runs.journal import Journal

VERDICTS = ("accept", "reject", "undo")
_LONGEST = 500  # of a note


@dataclass(frozen=True)
class Decision:
    """What was last said of a candidate: ``"accept"`` or ``"reject"``, why, by whom and when (seconds since 1970)."""

    candidate: str
    verdict: str
    note: str
    by: str
    at: float


@dataclass(frozen=True)
class Telling:
    """Results told at once: number of the entry, where they come from, what they are, what was kept aside, when."""

    number: int
    source: str
    digest: str | None
    results: tuple[Measurement, ...]
    aside: tuple[Aside, ...]
    at: float


class Entries:
    """A campaign's journal.

    Examples
    --------
    >>> import tempfile
    >>> entries = Entries(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> entries.decide("CCO", "reject", "smells", "Kim")
    >>> entries.decide("CCN", "accept")
    >>> entries.decide("CCO", "undo")
    >>> list(entries.decisions())
    ['CCN']
    """

    def __init__(self, file: Path) -> None:
        self.journal = Journal(file)
        self._turn = threading.RLock()

    def begin(self, pool: str) -> None:
        """Enter that a campaign begins, with the digest of its pool: an emptied journal does not have it."""
        self._enter("begun", {"pool": pool})

    def begun(self) -> str | None:
        """Digest of the pool that the campaign was begun with, None where it was never entered, or is lost."""
        return next((str(each["pool"]) for each, _, _ in self._read("begun")), None)

    def tell(
        self, results: Sequence[Measurement], aside: Sequence[Aside], source: str, digest: str | None
    ) -> Telling | None:
        """Enter results; where that digest is told already, nothing is entered, and that telling is returned."""
        with self._turn:
            held = next((each for each in self.told() if digest and each.digest == digest), None)
            if held is not None:
                return held
            detail = {
                "source": source,
                "digest": digest,
                "results": [[each.candidate, list(each.values)] for each in results],
                "aside": [[each.row, each.reason] for each in aside],
            }
            self._enter("told", detail)
            return None

    def told(self) -> list[Telling]:
        """All tellings in order, but for those taken back."""
        with self._turn:
            back = {each["number"] for each, _, _ in self._read("taken back")}
            return [_telling(*row) for row in self._read("told") if row[1] not in back]

    def take_back(self, number: int, by: str = "") -> None:
        """Take a telling back, as if it had never been; it stays in the journal.

        Raises
        ------
        NotFoundError
            If there is no such telling, or it is taken back already.
        """
        with self._turn:
            if number not in {each.number for each in self.told()}:
                raise NotFoundError(f"there is no entry {number} to take back")
            self._enter("taken back", {"number": number, "by": by})

    def decide(self, candidate: str, verdict: str, note: str = "", by: str = "") -> None:
        """Enter a decision.

        Raises
        ------
        SettingError
            If the verdict is none of accept, reject and undo, or the note is too long.
        """
        if verdict not in VERDICTS:
            raise SettingError(f"the verdict is {verdict!r}; expected one of {', '.join(VERDICTS)}")
        if len(note) > _LONGEST:
            raise SettingError(f"the note has {len(note)} characters; expected at most {_LONGEST}")
        self._enter("decided", {"candidate": candidate, "verdict": verdict, "note": note.strip(), "by": by})

    def decisions(self) -> dict[str, Decision]:
        """The last decision on each candidate, in the order they were first decided; those undone are left out."""
        found: dict[str, Decision] = {}
        for each, _, at in self._read("decided"):
            if each["verdict"] == "undo":
                found.pop(each["candidate"], None)
            else:
                found[each["candidate"]] = Decision(**each, at=at)
        return found

    def enumerate(self, texts: Sequence[str]) -> None:
        """Enter candidates that no table lists."""
        self._enter("enumerated", {"texts": list(texts)})

    def enumerated(self) -> list[str]:
        """Candidates that no table lists, in order."""
        return [text for each, _, _ in self._read("enumerated") for text in each["texts"]]

    def propose(self, views: Sequence[dict[str, Any]]) -> None:
        """Enter a batch as it is shown."""
        self._enter("proposed", {"batch": list(views)})

    def batches(self) -> list[list[dict[str, Any]]]:
        """Batches that were entered, in order."""
        return [each["batch"] for each, _, _ in self._read("proposed")]

    def relaxed(self, name: str, found: dict[str, Any]) -> None:
        """Enter a relaxation under a name."""
        self._enter("relaxed", {"name": name, "found": found})

    def relaxations(self) -> dict[str, dict[str, Any]]:
        """What was relaxed, by name."""
        return {each["name"]: each["found"] for each, _, _ in self._read("relaxed")}

    def judge(self, candidate: str, stability: dict[str, Any]) -> None:
        """Enter how stable a candidate is."""
        self._enter("judged", {"candidate": candidate, "stability": stability})

    def judged(self) -> dict[str, dict[str, Any]]:
        """How stable candidates are, by name."""
        return {each["candidate"]: each["stability"] for each, _, _ in self._read("judged")}

    def close(self) -> None:
        """Close the journal."""
        with self._turn:
            self.journal.close()

    def _enter(self, kind: str, detail: dict[str, Any]) -> None:
        with self._turn:
            self.journal.event(0, kind, detail)
            self.journal.commit()

    def _read(self, kind: str) -> list[tuple[dict[str, Any], int, float]]:
        with self._turn:
            rows = self.journal.events(kind)
        found = []
        for row in rows:
            try:
                found.append((json.loads(row["detail"]), row["number"], row["at"]))
            except ValueError as error:
                raise _damaged(row["number"], kind) from error
        return found


def _telling(detail: dict[str, Any], number: int, at: float) -> Telling:
    try:
        results = tuple(Measurement(name, tuple(values)) for name, values in detail["results"])
        aside = tuple(Aside(row, why) for row, why in detail["aside"])
        return Telling(number, detail["source"], detail["digest"], results, aside, at)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(number, "told") from error


def _damaged(number: int, kind: str) -> RunError:
    return RunError(f"entry {number} ({kind}) of the campaign's journal is damaged; put the journal back from a copy")
