"""The desk: everything the API and the pages work with, put together once for a server."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from everlearn.errors import DataError, RunError
from everlearn.metrics.continual import forgetting
from everlearn.runs import Run
from everlearn.runs.database import Row
from everlearn.runs.reviews import Review, Reviews
from everlearn.server.cases import Cases
from everlearn.server.prediction_log import PredictionLog
from everlearn.server.schemas import ReviewGiven
from everlearn.server.security import Actor, Gate, Tokens, secret
from everlearn.server.served import Service
from everlearn.server.settings import Settings
from everlearn.server.worklist import Worklist
from everlearn.server.writer import Writer


class Desk:
    """A server's parts. `open` starts them, `close` ends them."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)  # predictions run side by side, and the writer has the other core
        sys.setswitchinterval(0.001)  # a prediction gets the interpreter back from other threads sooner
        self.settings = settings
        salt = secret(settings.run)
        self.writer = Writer(settings.run, settings.margin) if settings.learns else None
        try:
            with Run.open(settings.run) as run:
                for text in run.warnings:
                    print(f"everlearn: {text}", file=sys.stderr)
                self.db = run.journal.db.again()
                self.reviews = Reviews(self.db)
                self.gate = Gate(settings, Tokens(self.db), salt)
                self.service = Service(settings.run, run.config, self.reviews, run.versions)
                self.cases = Cases(run, self.reviews, settings.cases, settings.limit, salt)
                self.log = PredictionLog(self.db.again(durable=False))
                self.name, self.matrix = run.path.absolute().name, run.progress.matrix
                self.method = run.config.learner.method
        except BaseException:
            if self.writer is not None:
                self.writer.stop()
            raise
        self.worklist = Worklist(self.cases, self.service, self.reviews)

    def review(self, given: ReviewGiven, actor: Actor) -> Row:
        """Enter a verdict; durable when this returns."""
        case = self.cases.get(given.case_id)
        picture, said, version = self.cases.picture(case.id), given.said, given.version
        if said is None:
            served, probabilities = self.service.predict(picture[None])
            said, version = served.classes[int(probabilities[0].argmax())], version or served.number
        label = {"accept": said, "correct": given.label, "unsure": None}[given.verdict]
        if given.verdict == "correct" and label is None:
            raise DataError("the verdict is 'correct' without a label; expected the true class")
        codes = {name: code for code, name in self.service.current.names.items()}
        if said not in codes:
            raise DataError(f"the class said is {said!r}; expected one that the model knows")
        box = given.box
        row = self.reviews.add(
            Review(
                case.id,
                given.verdict,
                label,
                picture.numpy(),
                actor=actor.name,
                said=codes[said],
                version=version,
                note=given.note,
                box=(box.x, box.y, box.width, box.height) if box else None,
                patient=case.patient,
                key=given.key,
            )
        )
        if self.writer is not None:
            self.writer.wake()
        return row

    def withdraw(self, number: int, actor: Actor) -> None:
        """Take a verdict back."""
        self.reviews.withdraw(number, actor.name)
        if self.writer is not None:
            self.writer.wake()

    def order(self, kind: str, detail: dict[str, Any], actor: Actor) -> int:
        """Ask the writer for something."""
        number = self.reviews.order(kind, detail, actor.name)
        if self.writer is not None:
            self.writer.wake()
        return number

    def alarms(self) -> list[str]:
        """What somebody ought to look at."""
        found = []
        if self.writer is not None and self.writer.fault:
            found.append(f"learning stands still: {self.writer.fault}")
        if self.service.fault:
            found.append(f"the newest version cannot be loaded: {self.service.fault}")
        if self.cases.fault:
            found.append(self.cases.fault)
        if self.worklist.fault:
            found.append(f"cases cannot be scored: {self.worklist.fault}")
        versions = self.reviews.versions()
        if versions and versions[-1]["status"] == "refused":
            found.append(f"version {versions[-1]['number']} was not put in service: {versions[-1]['reason']}")
        if self.worklist.unreadable:
            first = next(iter(self.worklist.unreadable.values()))
            found.append(f"{len(self.worklist.unreadable)} cases cannot be read; the first: {first}")
        warnings = self.reviews.rows("SELECT detail FROM events WHERE kind = 'warning' ORDER BY number DESC LIMIT 3")
        return found + [json.loads(row["detail"])["text"] for row in warnings]

    def forgetting(self) -> float | None:
        """Mean over classes of the best accuracy any version had on the cases kept for checking, less today's."""
        found = self.forgettings()
        if not found:
            return forgetting(self.matrix) if self.matrix else None
        return found[-1][1]

    def forgettings(self) -> list[tuple[int, float, str]]:
        """Number, forgetting and status of every version that is or was in service: what its classes lost, on average,
        against the best that a version until then had."""
        best: dict[str, float] = {}
        found = []
        for v in self.reviews.versions():
            now = json.loads(v["by_class"])
            if v["status"] == "refused" or not now:
                continue
            best |= {name: max(share, best.get(name, 0.0)) for name, share in now.items()}
            found.append((v["number"], sum(best[name] - now[name] for name in now) / len(now), v["status"]))
        return found

    def kept(self) -> set[int]:
        """Numbers of the versions that can be served again."""
        try:
            return set(self.service.versions.there())
        except RunError:  # the store cannot be reached
            return set()

    def percentile(self, share: float) -> float | None:
        """Of the last predictions' times, in milliseconds."""
        seconds = sorted(self.service.seconds)
        return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3) if seconds else None

    def close(self) -> None:
        """End everything; what was acknowledged is in the journal."""
        self.worklist.stop()
        self.service.stop()
        if self.writer is not None:
            self.writer.stop()
        self.log.close()
        self.db.close()
