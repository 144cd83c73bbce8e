"""Alarms while learning: a class never seen before, and drift, told from what the learner says before it learns.

Every batch is predicted first and learned then. What the prediction leaves of the true class's probability, 1 − p, is
watched by a sequential test (`everlearn.runs.drift`). Classes come into it once they are known a little; a new class
begins the watch anew, since it makes the others harder for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from everlearn.learners import Prediction
from everlearn.runs.drift import Adwin

KNOWN = 30
"""Samples of a class after which it counts as known."""


@dataclass(frozen=True)
class Alarm:
    """What is to be told: ``kind`` ("new class" or "drift"), its details for the journal, and a line for a person."""

    kind: str
    detail: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Look:
    """A batch predicted before it was learned: how many samples of known classes, how many right; and what alarms."""

    samples: int
    right: int
    alarms: list[Alarm]


@dataclass(frozen=True)
class Asked:
    """A batch before it is learned: what is new in it, and what the learner says of it, which is not read off yet.

    Parameters
    ----------
    alarms : list of Alarm
        Of new classes.
    codes : list of int
        Of all samples.
    known : list of int
        Places of the samples of known classes.
    said : Prediction or None
        Of all samples.
    """

    alarms: list[Alarm]
    codes: list[int]
    known: list[int]
    said: Prediction | None


class Alarms:
    """Looks at each batch before the learner does.

    Parameters
    ----------
    state : dict
        What `state` gave; empty at a run's beginning.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.counts: dict[str, int] = dict(state.get("counts", {}))  # by code; JSON's keys are text
        self.window = Adwin(state=state.get("window"))

    def state(self) -> dict[str, Any]:
        """What decides later alarms, for the checkpoint."""
        return {"counts": dict(self.counts), "window": self.window.state()}

    def ask(
        self,
        codes: list[int],
        ids: list[int],
        seen: set[int],
        predict: Callable[[], Prediction | None],
        names: dict[int, str],
        name: Callable[[int], str],
    ) -> Asked:
        """Have a batch predicted, and see what is new in it.

        Parameters
        ----------
        codes, ids : list of int
            Of the samples that are learned next.
        seen : set of int
            Codes that the learner knows.
        predict : callable
            Gives the prediction of these samples, or None where the method looks at nothing beforehand.
        names : dict
            Of label codes.
        name : callable
            Gives the name of a sample by its id.
        """
        known = [i for i, code in enumerate(codes) if self.counts.get(str(code), 0) >= KNOWN]
        for code in codes:
            self.counts[str(code)] = self.counts.get(str(code), 0) + 1
        return Asked(_new_classes(codes, ids, seen, names, name), codes, known, predict() if known else None)

    def judge(self, asked: Asked) -> Look:
        """Read off what was said and tell of drift; batches come in the order in which they were asked about."""
        alarms, known, said = asked.alarms, asked.known, asked.said
        if alarms:
            self.window.clear()
        if said is None:
            return Look(0, 0, alarms)
        columns = [said.codes.index(asked.codes[i]) for i in known]
        probabilities = said.probabilities.float().cpu()[known]
        right = int((probabilities.argmax(1) == torch.tensor(columns)).sum())
        surprise = (1 - probabilities[torch.arange(len(known)), columns]).clamp(0, 1).tolist()
        if not alarms and (rise := self.window.add(surprise)) is not None:
            detail = {"before": round(1 - rise.before, 4), "now": round(1 - rise.now, 4), "samples": rise.values}
            text = f"drift: the true class was given {detail['before']:.0%}, over the last {rise.values} samples "
            alarms = [Alarm("drift", detail, f"{text}{detail['now']:.0%}")]
        return Look(len(known), right, alarms)


def _new_classes(
    codes: list[int], ids: list[int], seen: set[int], names: dict[int, str], name: Callable[[int], str]
) -> list[Alarm]:
    alarms, known = [], set(seen)
    for code, id_ in zip(codes, ids):
        if code not in known:
            known.add(code)
            detail = {"class": names[code], "sample": name(id_)}
            alarms.append(Alarm("new class", detail, f"new class {names[code]}, first seen in {name(id_)}"))
    return alarms
