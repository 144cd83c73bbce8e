"""The audit log: an append-only chain in which every entry holds the hash of the one before.

Entry n's hash is SHA-256 over the hash of entry n − 1 and its own content, so that no entry can be changed, removed
from the middle or slipped in without every later hash failing. Who keeps the last hash elsewhere also notices a cut-off
end. Entries name reviews, samples and versions by number only; nothing personal is in them, so that forgetting a person
never has to break the chain.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64


@dataclass(frozen=True)
class Verified:
    """What `verify` found: entries read, the last hash, and the first fault or None."""

    entries: int
    last: str
    fault: str | None


def append(db: sqlite3.Connection, actor: str, action: str, detail: dict[str, Any]) -> str:
    """Add an entry within the caller's transaction, which must hold the write lock; returns its hash.

    Examples
    --------
    >>> from everlearn.runs.review_tables import REVIEW_TABLES
    >>> db = sqlite3.connect(":memory:")
    >>> _ = db.executescript(REVIEW_TABLES)
    >>> _ = append(db, "local", "review", {"number": 1})
    >>> verify(db).entries, verify(db).fault
    (1, None)
    >>> _ = db.execute("UPDATE audit SET actor = 'someone else'")
    >>> verify(db).fault
    'entry 1 was changed: its hash does not fit its content'
    """
    last = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (1, GENESIS) if last is None else (last[0] + 1, last[1])
    at, text = time.time(), json.dumps(detail, sort_keys=True, ensure_ascii=False)
    value = _hash(previous, number, at, actor, action, text)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", (number, at, actor, action, text, previous, value))
    return value


def verify(db: sqlite3.Connection) -> Verified:
    """Walk the whole chain."""
    previous, count = GENESIS, 0
    for number, at, actor, action, detail, said_previous, value in db.execute("SELECT * FROM audit ORDER BY number"):
        count += 1
        if number != count:
            return Verified(count - 1, previous, f"entry {count} is missing: {number} follows {count - 1}")
        if said_previous != previous:
            return Verified(count - 1, previous, f"entry {number} does not follow the one before it")
        if _hash(previous, number, at, actor, action, detail) != value:
            return Verified(count - 1, previous, f"entry {number} was changed: its hash does not fit its content")
        previous = value
    return Verified(count, previous, None)


def _hash(previous: str, number: int, at: float, actor: str, action: str, detail: str) -> str:
    content = json.dumps([previous, number, repr(at), actor, action, detail], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
