"""Orders: what the writer is asked for beside learning, carried out by it and answered in the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everlearn.errors import DataError, SettingError
from everlearn.runs import audit_log, forgetting
from everlearn.runs.review_step import forget as take_out

if TYPE_CHECKING:
    from everlearn.runs.reviewing import Reviewing


def carry_out(reviewing: Reviewing) -> bool:
    """Carry out what is ordered, in order; whether anything was."""
    orders = reviewing.reviews.rows("SELECT * FROM orders WHERE done IS NULL ORDER BY number")
    for order in orders:
        detail = json.loads(order["detail"])
        try:
            answer = ORDERS[order["kind"]](reviewing, **detail)
        except (DataError, SettingError) as error:  # any other ends the writer, and the next one begins it again
            answer = {"error": str(error)}
        with reviewing.reviews.transaction() as db:
            done = (time.time(), json.dumps(answer), order["number"])
            db.execute("UPDATE orders SET done = ?, answer = ? WHERE number = ?", *done)
    return bool(orders)


def roll_back(reviewing: Reviewing, version: int) -> dict[str, Any]:
    """Serve an earlier version again and learn on from it; what was learned since is set aside."""
    row = next((v for v in reviewing.reviews.versions() if v["number"] == version), None)
    if row is None or version not in reviewing.run.versions.there():
        kept = ", ".join(map(str, reviewing.run.versions.there()))
        raise DataError(f"version {version} is not kept; expected one of {kept}")
    progress, tensors = reviewing.run.versions.load(version)
    before = {r["review"] for r in reviewing.reviews.learned()}
    reviewing.branch(progress, f"rolled back to version {version}")
    after = {r["review"] for r in reviewing.reviews.learned()}
    with reviewing.reviews.transaction() as db:
        for number in before - after:
            db.execute("UPDATE reviews SET status = 'set aside' WHERE number = ? AND status = 'learn'", number)
        for number in after:
            db.execute("UPDATE reviews SET status = 'learn' WHERE number = ? AND status = 'set aside'", number)
        db.execute("UPDATE versions SET status = 'retired' WHERE status = 'in service'")
        db.execute("UPDATE versions SET status = 'in service' WHERE number = ?", version)
        audit_log.append(db, "everlearn", "rolled back", {"version": version, "set aside": sorted(before - after)})
    reviewing.take_up(progress, tensors)
    reviewing.run.save(reviewing.learner)
    return {"version": version, "set_aside": sorted(before - after)}


def remove(reviewing: Reviewing, ids: list[int]) -> dict[str, Any]:
    """Take samples out of memory, now and in every state that is taken up later."""
    with reviewing.reviews.transaction() as db:
        for id_ in ids:
            db.execute(forgetting.ADD_REMOVED, id_, time.time())
        audit_log.append(db, "everlearn", "removed from memory", {"samples": ids})
    removed = take_out(reviewing.learner, ids)
    reviewing.publish(f"{removed} samples were removed from memory")
    return {"removed": removed}


def forget(reviewing: Reviewing, reviews: list[int], cases: list[int]) -> dict[str, Any]:
    """Forget reviews and cases that were sent (`everlearn.runs.forgetting`)."""
    found = forgetting.Found(reviews, cases)
    did = forgetting.erase(reviewing.reviews, found, "everlearn")
    dropped = forgetting.unlearn_reviews(reviewing, found)
    reviewing.db.scrub()
    return did | {"versions": dropped}


ORDERS: dict[str, Callable[..., dict[str, Any]]] = {"roll back": roll_back, "remove": remove, "forget": forget}
