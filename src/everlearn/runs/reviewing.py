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
from functools import partial
from typing import Any

import torch

from everlearn.errors import EverlearnError, RunError
from everlearn.learners import Learner
from everlearn.runs import audit_log, checkpoints, forgetting, versions
from everlearn.runs.build import build_learner
from everlearn.runs.checkpoints import Progress
from everlearn.runs.guard import Check, Guard
from everlearn.runs.review_step import forget, learn_review
from everlearn.runs.review_tables import LINE, ON_LINE
from everlearn.runs.reviews import REVIEW_IDS, Reviews, picture_of
from everlearn.runs.run import Run

MARGIN = 0.05


class Reviewing:
    """A run's learner, taking in reviews.

    Parameters
    ----------
    run : Run
        Open for writing.
    reviews : Reviews
        Of the same run.
    margin : float
        By how much a new version's accuracy on the guard's cases may fall below that of the version in service.
    publish_after : float
        Seconds of learning after which a version is published while more reviews wait.

    Attributes
    ----------
    learner : Learner
    high : int
        Number of the last review learned.
    """

    def __init__(self, run: Run, reviews: Reviews, *, margin: float = MARGIN, publish_after: float = 1.0) -> None:
        self.run, self.reviews, self.margin, self.publish_after = run, reviews, margin, publish_after
        self.learner = self._recover()
        self.guard = Guard(run, reviews)
        self._fresh: list[tuple[int, int, float]] = []  # learned in memory only: step, review, loss
        self._put_in_service()

    def work(self) -> bool:
        """One round: carry out orders, take back what was withdrawn, or learn what waits. Whether anything was done."""
        if self._carry_out_orders() or self._take_back():
            return True
        self.learn_all(self.publish_after)
        if not self._fresh:
            return False
        self.publish()
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
                db.execute(
                    "INSERT INTO learnings VALUES (?, ?, ?, ?, ?)", (progress.branch, step, number, loss, time.time())
                )
                db.execute("INSERT OR REPLACE INTO steps VALUES (?, NULL, 1, ?, ?)", (step, loss, time.time()))
                db.execute(
                    "INSERT OR REPLACE INTO samples SELECT ?, ?, code, 'review ' || number FROM reviews "
                    "WHERE number = ?",
                    (REVIEW_IDS + number, step, number),
                )
        learned, self._fresh = [number for _, number, _ in self._fresh], []
        checkpoint = self.run.save(self.learner)
        self._enter_version(checkpoint, learned, reason, force)

    def _enter_version(self, checkpoint: Any, learned: list[int], reason: str, force: bool) -> None:
        serving = self.reviews.in_service()
        number = int(self.reviews.rows("SELECT COALESCE(MAX(number), 0) + 1 AS n FROM versions")[0]["n"])
        versions.publish(self.run.path, number, checkpoint)
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
        self.guard.known[number] = check
        with self.reviews.transaction() as db:
            if status == "in service":
                db.execute("UPDATE versions SET status = 'retired' WHERE status = 'in service'")
            total = db.execute(f"{LINE} SELECT COUNT(*) FROM {ON_LINE}").fetchone()[0]
            db.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    self.run.progress.branch,
                    self.learner.step,
                    total,
                    time.time(),
                    status,
                    reason,
                    check.n,
                    check.accuracy,
                    json.dumps(check.by_class),
                    check.temperature,
                ),
            )
            detail = {"version": number, "status": status, "learned": learned}
            audit_log.append(db, "everlearn", "version", detail)
        self._drop_old(number if status == "in service" else (serving["number"] if serving else None))

    def _check_of(self, number: int) -> Check:
        """How a version does on the guard's cases; measured anew by a writer that did not make it."""
        if number not in self.guard.known:
            _, tensors = versions.load(self.run.path, number)
            learner = build_learner(self.run.config, self.run.shape)
            learner.load_state_dict(tensors)
            self.guard.known[number] = self.guard.check(learner)
        return self.guard.known[number]

    def _put_in_service(self) -> None:
        """See to it that a whole version is in service, and that the state reached has been offered as one."""
        serving = self.reviews.in_service()
        if serving is None:
            self.publish("as the stream left it")
            return
        try:
            versions.load(self.run.path, serving["number"])
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
        gone = versions.superfluous(versions.there(self.run.path), in_service)
        for number in gone:
            versions.drop(self.run.path, number)

    def _learn(self, row: Any) -> bool:
        correction = row["verdict"] == "correct"
        picture = torch.from_numpy(picture_of(row))
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
            db.execute("UPDATE reviews SET status = 'set aside' WHERE number = ?", (number,))
            db.execute(
                "INSERT INTO events (step, kind, detail, at) VALUES (?, 'warning', ?, ?)",
                (self.learner.step, json.dumps({"text": f"review {number} cannot be learned: {problem}"}), time.time()),
            )
            audit_log.append(db, "everlearn", "set aside", {"review": number})
        self._fresh = []
        self.learner = self._recover()

    # going back

    def _take_back(self) -> bool:
        """Go back to before the first withdrawn review that was learned; the others are learned again."""
        rows = self.reviews.rows(
            f"{LINE} SELECT MIN(l.step) AS step FROM {ON_LINE} JOIN reviews r ON r.number = l.review "
            "WHERE r.status != 'learn'"
        )
        if rows[0]["step"] is None:
            return False
        self.branch_before(int(rows[0]["step"]), "a review was taken back")
        self.learn_all()
        self.publish("a review was taken back", force=True)
        return True

    def branch_before(self, step: int, reason: str) -> None:
        """Take up the newest state on the line before a step, on a new branch."""
        for _, progress, tensors in self._states():
            if progress.step < step:
                self._branch(progress, reason)
                self._take_up(progress, tensors)
                return
        raise RunError(f"{self.run.path} keeps no state from before step {step}; expected its first version at least")

    def _branch(self, base: Progress, reason: str) -> None:
        with self.reviews.transaction() as db:
            new = int(db.execute("SELECT MAX(branch) + 1 FROM branches").fetchone()[0])
            db.execute(
                "INSERT INTO branches VALUES (?, ?, ?, ?, ?)", (new, base.branch, base.step, reason, time.time())
            )
            audit_log.append(db, "everlearn", "branch", {"branch": new, "of": base.branch, "step": base.step})
        base.branch = new

    def _take_up(self, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
        run = self.run
        run.progress, run._tensors = progress, tensors
        run.journal.rewind(progress.step)
        for step in checkpoints.steps(run.path / "checkpoints"):
            if step > progress.step:
                checkpoints.drop(run.path / "checkpoints", step)
        self.learner = run.learner()
        forget(self.learner, [row["id"] for row in self.reviews.rows("SELECT id FROM removed")])
        self._fresh = []
        found = self.reviews.rows(f"{LINE} SELECT COALESCE(MAX(l.review), 0) AS n FROM {ON_LINE}")
        self.high = int(found[0]["n"])

    def _recover(self) -> Learner:
        """Start from the newest whole state that counts."""
        run, current = self.run, int(self.reviews.rows("SELECT MAX(branch) AS b FROM branches")[0]["b"])
        for _, progress, tensors in self._states():
            if progress.branch != current:
                limit = self.reviews.rows(LINE + "SELECT upto FROM line WHERE branch = ?", progress.branch)[0]["upto"]
                behind = self.reviews.rows(f"{LINE} SELECT 1 FROM {ON_LINE} WHERE l.step > ? LIMIT 1", progress.step)
                if progress.step < limit and behind:  # every state nearer to the end is damaged
                    self._branch(progress, "newer states were damaged")
                else:
                    progress.branch = current
            self._take_up(progress, tensors)
            return self.learner
        raise RunError(f"{run.path} has no checkpoint yet; let it learn first (everlearn learn --resume {run.path})")

    def _states(self) -> Iterator[tuple[str, Progress, dict[str, torch.Tensor]]]:
        """States on the line, newest first; damaged ones are passed over with a warning in the journal."""
        run, seen = self.run, set()
        places: list[tuple[int, Callable[[], tuple[Progress, dict[str, torch.Tensor]]], str]] = []
        for step in checkpoints.steps(run.path / "checkpoints"):
            places.append((step, partial(checkpoints.load, run.path / "checkpoints", step), f"checkpoint {step}"))
        steps = {row["number"]: row["step"] for row in self.reviews.versions()}
        for number in versions.there(run.path):
            if number in steps:
                places.append((steps[number], partial(versions.load, run.path, number), f"version {number}"))
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

    # orders

    def _carry_out_orders(self) -> bool:
        orders = self.reviews.rows("SELECT * FROM orders WHERE done IS NULL ORDER BY number")
        for order in orders:
            detail = json.loads(order["detail"])
            try:
                answer = self._ORDERS[order["kind"]](self, **detail)
            except EverlearnError as error:
                answer = {"error": str(error)}
            with self.reviews.transaction() as db:
                db.execute(
                    "UPDATE orders SET done = ?, answer = ? WHERE number = ?",
                    (time.time(), json.dumps(answer), order["number"]),
                )
        return bool(orders)

    def _roll_back(self, version: int) -> dict[str, Any]:
        """Serve an earlier version again and learn on from it; what was learned since is set aside."""
        row = next((v for v in self.reviews.versions() if v["number"] == version), None)
        if row is None or version not in versions.there(self.run.path):
            kept = ", ".join(map(str, versions.there(self.run.path)))
            raise RunError(f"version {version} is not kept; expected one of {kept}")
        progress, tensors = versions.load(self.run.path, version)
        before = {r["review"] for r in self.reviews.learned()}
        self._branch(progress, f"rolled back to version {version}")
        after = {r["review"] for r in self.reviews.learned()}
        with self.reviews.transaction() as db:
            for number in before - after:
                db.execute("UPDATE reviews SET status = 'set aside' WHERE number = ? AND status = 'learn'", (number,))
            for number in after:
                db.execute("UPDATE reviews SET status = 'learn' WHERE number = ? AND status = 'set aside'", (number,))
            db.execute("UPDATE versions SET status = 'retired' WHERE status = 'in service'")
            db.execute("UPDATE versions SET status = 'in service' WHERE number = ?", (version,))
            audit_log.append(db, "everlearn", "rolled back", {"version": version, "set aside": sorted(before - after)})
        self._take_up(progress, tensors)
        self.run.save(self.learner)
        return {"version": version, "set_aside": sorted(before - after)}

    def _remove(self, ids: list[int]) -> dict[str, Any]:
        """Take samples out of memory, now and in every state that is taken up later."""
        with self.reviews.transaction() as db:
            for id_ in ids:
                db.execute("INSERT OR IGNORE INTO removed VALUES (?, ?)", (id_, time.time()))
            audit_log.append(db, "everlearn", "removed from memory", {"samples": ids})
        removed = forget(self.learner, ids)
        self.publish(f"{removed} samples were removed from memory")
        return {"removed": removed}

    def _forget(self, reviews: list[int], cases: list[int]) -> dict[str, Any]:
        """Forget reviews and cases that were sent (`everlearn.runs.forgetting`)."""
        found = forgetting.Found(reviews, cases)
        did = forgetting.erase(self.run, self.reviews, found, "everlearn")
        dropped = forgetting.unlearn_reviews(self, found)
        forgetting.scrub(self.reviews)
        return did | {"versions": dropped}

    _ORDERS: dict[str, Callable[..., dict[str, Any]]] = {"roll back": _roll_back, "remove": _remove, "forget": _forget}  # noqa: RUF012
