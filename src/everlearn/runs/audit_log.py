"""The audit log: an append-only chain in which every entry holds the hash of the one before.

Entry n's hash is SHA-256 over the hash of entry n − 1 and its own content, so that no entry can be changed, removed
from the middle or slipped in without every later hash failing. Who keeps the last hash elsewhere also notices a cut-off
end. Entries name reviews, samples and versions by number only; nothing personal is in them, so that forgetting a person
never has to break the chain.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from everlearn.runs.database import Database

GENESIS = "0" * 64
_CHUNK = 1000


@dataclass(frozen=True)
class Verified:
    """What `verify` found: entries read, the last hash, and the first fault or None."""

    entries: int
    last: str
    fault: str | None


def append(db: Database, actor: str, action: str, detail: dict[str, Any]) -> str:
    """Add an entry within the caller's transaction; returns its hash.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from everlearn.runs.journal import Journal
    >>> db = Journal(Path(tempfile.mkdtemp()) / "journal.sqlite").db
    >>> _ = append(db, "local", "review", {"number": 1})
    >>> verify(db).entries, verify(db).fault
    (1, None)
    >>> db.execute("UPDATE audit SET actor = 'someone else'")
    >>> verify(db).fault
    'entry 1 was changed: its hash does not fit its content'
    """
    last = db.row("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")
    number, previous = (1, GENESIS) if last is None else (last["number"] + 1, last["hash"])
    at, text = time.time(), json.dumps(detail, sort_keys=True, ensure_ascii=False)
    value = _hash(previous, number, at, actor, action, text)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", number, at, actor, action, text, previous, value)
    return value


def verify(db: Database) -> Verified:
    """Walk the whole chain."""
    previous, count = GENESIS, 0
    while rows := db.rows("SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT ?", count, _CHUNK):
        for row in rows:
            number = row["number"]
            count += 1
            if number != count:
                return Verified(count - 1, previous, f"entry {count} is missing: {number} follows {count - 1}")
            if row["previous"] != previous:
                return Verified(count - 1, previous, f"entry {number} does not follow the one before it")
            if _hash(previous, number, row["at"], row["actor"], row["action"], row["detail"]) != row["hash"]:
                return Verified(count - 1, previous, f"entry {number} was changed: its hash does not fit its content")
            previous = row["hash"]
    return Verified(count, previous, None)


def _hash(previous: str, number: int, at: float, actor: str, action: str, detail: str) -> str:
    content = json.dumps([previous, number, repr(at), actor, action, detail], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
