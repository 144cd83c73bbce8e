"""The one who learns reviews: in order of arrival, each exactly once, published as numbered versions.

The order on disk is what makes every crash harmless. Reviews are learned in memory; then the journal says at which step
each was learned; then the checkpoint is written; then the version is entered. Whoever starts takes the newest whole
state on the line, strikes out learnings behind it, and learns those reviews again in the same order: to the same bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from everlearn.errors import DataError, EverlearnError, RunError
from everlearn.learners import Learner
from everlearn.runs import audit_log, checkpoints, orders
from everlearn.runs.build import build_learner, take_rate
from everlearn.runs.checkpoints import Progress
from everlearn.runs.database import Row
from everlearn.runs.guard import Check, Guard
from everlearn.runs.journal import ADD_EVENT, ADD_SAMPLE, ADD_STEP
from everlearn.runs.review_step import forget, learn_review
from everlearn.runs.review_tables import LINE, ON_LINE
from everlearn.runs.reviews import REVIEW_IDS, Reviews, picture_of
from everlearn.runs.run import Run
from everlearn.runs.versions import superfluous

MARGIN = 0.05


class Reviewing:
    """A run's learner, taking in reviews.

    Parameters
    ----------
    run : Run
        Open for writing.
    reviews : Reviews
        On the run's own connection: it holds the lock of the one who learns.
    margin : float
        By how much a new version's accuracy on the guard's cases may fall below that of the version in service.
    publish_after : float
        Seconds of learning after which a version is published while more reviews wait; longer where publishing takes
        more than half as long, so that learning has two thirds of the time. With 0, a version for every review.

    Attributes
    ----------
    learner : Learner
    high : int
        Number of the last review learned.
    """

    def __init__(self, run: Run, reviews: Reviews, *, margin: float = MARGIN, publish_after: float = 1.0) -> None:
        self.run, self.reviews, self.db = run, reviews, run.journal.db
        self.margin, self.publish_after = margin, publish_after
        self.learner = self._recover()
        self.guard = Guard(run, reviews)
        self._checked: tuple[int, Check] | None = None  # the version in service
        self._published = 0.0  # seconds that publishing the last version took
        self._fresh: list[tuple[int, int, float]] = []  # learned in memory only: step, review, loss
        self._put_in_service()

    def work(self) -> bool:
        """One round: carry out orders, take back what was withdrawn, or learn what waits. Whether anything was done."""
        if orders.carry_out(self) or self._take_back():
            return True
        self.learn_all(self.publish_after and max(self.publish_after, 2 * self._published))
        if not self._fresh:
            return False
        begun = time.monotonic()
        self.publish()
        self._published = time.monotonic() - begun
        return True

    def learn_all(self, seconds: float = math.inf) -> None:
        """Learn what waits, in memory, one review at least, for so long; `publish` makes it durable."""
        begun = time.monotonic()
        while waiting := self.reviews.waiting(self.high):
            for row in waiting:
                if not self._learn(row):
                    break  # taken up again as it was before: what waits is to be asked anew
                if time.monotonic() - begun > seconds:
                    return

    def renew_guard(self) -> None:
        """Choose the guard's cases again, after some were forgotten."""
        self.guard = Guard(self.run, self.reviews)

    def publish(self, reason: str = "", *, force: bool = False) -> None:
        """Make what was learned durable, then a version; put it in service unless the guard objects."""
        progress = self.run.progress
        with self.reviews.transaction() as db:
            for step, number, loss in self._fresh:
                now = time.time()
                db.execute("INSERT INTO learnings VALUES (?, ?, ?, ?, ?)", progress.branch, step, number, loss, now)
                db.execute(ADD_STEP, step, None, 1, loss, now)
                code = db.value("SELECT code FROM reviews WHERE number = ?", number)
                db.execute(ADD_SAMPLE, REVIEW_IDS + number, step, code, f"review {number}")
        learned, self._fresh = [number for _, number, _ in self._fresh], []
        checkpoint = self.run.save(self.learner)
        self._enter_version(checkpoint, learned, reason, force)

    def _enter_version(self, checkpoint: Any, learned: list[int], reason: str, force: bool) -> None:
        serving = self.reviews.in_service()
        number = int(self.db.value("SELECT COALESCE(MAX(number), 0) + 1 FROM versions"))
        self.run.versions.publish(number, checkpoint)
        check = self.guard.check(self.learner)
        status = "in service"
        if serving is not None and not force:
            n, lost = check.against(self._check_of(serving["number"]))
            if lost >= 3 and lost > self.margin * n:
                status = "refused"
                reason = (
                    f"of {n} cases kept for checking it has {lost} fewer right than version {serving['number']}; "
                    f"at most {self.margin:.0%} are allowed"
                )
        if status == "in service":
            self._checked = number, check
        with self.reviews.transaction() as db:
            if status == "in service":
                db.execute("UPDATE versions SET status = 'retired' WHERE status = 'in service'")
            total = db.value(f"{LINE} SELECT COUNT(*) FROM {ON_LINE}")
            measured = (check.n, check.accuracy, json.dumps(check.by_class), check.temperature)
            where = (self.run.progress.branch, self.learner.step)
            db.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(number, *where, total, time.time(), status, reason, *measured),
            )
            detail = {"version": number, "status": status, "learned": learned}
            audit_log.append(db, "everlearn", "version", detail)
        self._drop_old(number if status == "in service" else (serving["number"] if serving else None))

    def _check_of(self, number: int) -> Check:
        """How a version does on the guard's cases; measured anew by a writer that did not make it."""
        if self._checked is None or self._checked[0] != number:
            _, tensors = self.run.versions.load(number)
            learner = build_learner(self.run.config, self.run.shape, empty=True)
            learner.load_state_dict(tensors)
            self._checked = number, self.guard.check(learner)
        return self._checked[1]

    def _put_in_service(self) -> None:
        """See to it that a whole version is in service, and that the state reached has been offered as one."""
        serving = self.reviews.in_service()
        if serving is None:
            self.publish("as the stream left it")
            return
        try:
            self.run.versions.load(serving["number"])
        except RunError:
            self.publish(f"version {serving['number']}, which was in service, was damaged", force=True)
            return
        offered = any(
            v["step"] == self.learner.step and self.run.journal.on_line(v["branch"], v["step"])
            for v in self.reviews.versions()
        )
        if not offered:  # a writer was killed after its checkpoint
            self.publish("taken up again")

    def _drop_old(self, in_service: int | None) -> None:
        gone = superfluous(self.run.versions.there(), in_service)
        for number in gone:
            self.run.versions.drop(number)

    def _learn(self, row: Row) -> bool:
        correction = row["verdict"] == "correct"
        picture = torch.from_numpy(picture_of(row))
        take_rate(self.run.config, self.learner)
        try:
            loss = learn_review(self.learner, picture, row["code"], REVIEW_IDS + row["number"], correction=correction)
            problem = None if math.isfinite(loss) else f"the loss became {loss}"
        except (EverlearnError, RuntimeError) as error:  # PyTorch's own errors are RuntimeErrors
            loss, problem = math.nan, str(error)
        if problem is not None:
            self._set_aside(row["number"], problem)
            return False
        self.high = row["number"]
        self.run.progress.step = self.learner.step
        self.run.progress.samples_seen += 1
        self._fresh.append((self.learner.step, row["number"], loss))
        return True

    def _set_aside(self, number: int, problem: str) -> None:
        """A review that cannot be learned: leave it out, and take the learner up again as it was before."""
        with self.reviews.transaction() as db:
            db.execute("UPDATE reviews SET status = 'set aside' WHERE number = ?", number)
            detail = json.dumps({"text": f"review {number} cannot be learned: {problem}"})
            db.execute(ADD_EVENT, self.learner.step, "warning", detail, time.time())
            audit_log.append(db, "everlearn", "set aside", {"review": number})
        self._fresh = []
        self.learner = self._recover()

    # going back

    def _take_back(self) -> bool:
        """Go back to before the first withdrawn review that was learned; the others are learned again."""
        step = self.db.value(
            f"{LINE} SELECT MIN(l.step) FROM {ON_LINE} JOIN reviews r ON r.number = l.review WHERE r.status != 'learn'"
        )
        if step is None:
            return False
        self.branch_before(int(step), "a review was taken back")
        self.learn_all()
        self.publish("a review was taken back", force=True)
        return True

    def branch_before(self, step: int, reason: str) -> None:
        """Take up the newest state on the line before a step, on a new branch."""
        for _, progress, tensors in self._states():
            if progress.step < step:
                self.branch(progress, reason)
                self.take_up(progress, tensors)
                return
        raise DataError(f"{self.run.path} keeps no state from before step {step}; expected its first version at least")

    def branch(self, base: Progress, reason: str) -> None:
        """Begin a new branch at a state."""
        with self.reviews.transaction() as db:
            new = int(db.value("SELECT MAX(branch) + 1 FROM branches"))
            db.execute("INSERT INTO branches VALUES (?, ?, ?, ?, ?)", new, base.branch, base.step, reason, time.time())
            audit_log.append(db, "everlearn", "branch", {"branch": new, "of": base.branch, "step": base.step})
        base.branch = new

    def take_up(self, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from a state; what lies behind it is struck out."""
        run = self.run
        run.adopt(progress, tensors)
        run.journal.rewind(progress.step)
        for step in checkpoints.steps(run.path / "checkpoints"):
            if step > progress.step:
                checkpoints.drop(run.path / "checkpoints", step)
        self.learner = run.learner()
        forget(self.learner, [row["id"] for row in self.reviews.rows("SELECT id FROM removed")])
        self._fresh = []
        self.high = int(self.db.value(f"{LINE} SELECT COALESCE(MAX(l.review), 0) FROM {ON_LINE}"))

    def _recover(self) -> Learner:
        """Start from the newest whole state that counts."""
        run, current = self.run, int(self.db.value("SELECT MAX(branch) FROM branches"))
        self._tidy()
        for _, progress, tensors in self._states():
            if progress.branch != current:
                limit = self.db.value(LINE + "SELECT upto FROM line WHERE branch = ?", progress.branch)
                behind = self.db.value(f"{LINE} SELECT COUNT(*) FROM {ON_LINE} WHERE l.step > ?", progress.step)
                if progress.step < limit and behind:  # every state nearer to the end is damaged
                    self.branch(progress, "newer states were damaged")
                else:
                    progress.branch = current
            self.take_up(progress, tensors)
            return self.learner
        raise RunError(f"{run.path} has no checkpoint yet; let it learn first (everlearn learn --resume {run.path})")

    def _tidy(self) -> None:
        """Delete what does not count any more, as where another machine has gone back, perhaps to forget."""
        folder = self.run.path / "checkpoints"
        for step in checkpoints.steps(folder):
            with suppress(RunError):  # a damaged one is told of when it is read
                known = checkpoints.progress_of(folder, step)
                if not self.run.journal.on_line(known.branch, known.step):
                    checkpoints.drop(folder, step)
        self.run.versions.tidy()

    def _states(self) -> Iterator[tuple[str, Progress, dict[str, torch.Tensor]]]:
        """States on the line, newest first; damaged ones are passed over with a warning in the journal."""
        run, seen = self.run, set()
        places: list[tuple[int, Callable[[], tuple[Progress, dict[str, torch.Tensor]]], str]] = []
        for step in checkpoints.steps(run.path / "checkpoints"):
            places.append((step, partial(checkpoints.load, run.path / "checkpoints", step), f"checkpoint {step}"))
        steps = {row["number"]: row["step"] for row in self.reviews.versions()}
        for number in run.versions.there():
            if number in steps:
                places.append((steps[number], partial(run.versions.load, number), f"version {number}"))
        for _, read, name in sorted(places, key=lambda place: -place[0]):
            try:
                progress, tensors = read()
            except RunError as error:
                run.journal.event(run.progress.step, "warning", {"text": str(error)})
                run.journal.commit()
                continue
            if (progress.branch, progress.step) in seen or not run.journal.on_line(progress.branch, progress.step):
                continue
            seen.add((progress.branch, progress.step))
            yield name, progress, tensors
