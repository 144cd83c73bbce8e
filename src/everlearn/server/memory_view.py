"""What the version in service remembers."""

from __future__ import annotations

from everlearn.runs.reviews import REVIEW_IDS
from everlearn.server.desk import Desk
from everlearn.server.schemas import MemoryLine, MemoryPage


def remembered(desk: Desk, label: str | None = None, text: str = "", offset: int = 0, limit: int = 100) -> MemoryPage:
    """Remembered samples, newest first, of one class or all, whose name holds ``text``."""
    served = desk.service.current
    memory, names = served.learner.memory, served.classes
    ids, steps = memory.ids[: memory.size].tolist(), memory.steps[: memory.size].tolist()
    targets = memory.targets[: memory.size].tolist()
    known = {row["id"]: row["name"] for row in desk.reviews.rows("SELECT id, name FROM samples")}
    lines = [
        MemoryLine(id=id_, label=names[t], step=step, name=known.get(id_), reviewed=id_ >= REVIEW_IDS)
        for id_, t, step in sorted(zip(ids, targets, steps), key=lambda row: (-row[2], row[0]))
        if label in (None, "", names[t]) and text.lower() in f"{id_} {known.get(id_) or ''}".lower()
    ]
    by_class = {name: int(n) for name, n in zip(names, memory.counts.tolist())}
    return MemoryPage(
        version=served.number,
        capacity=memory.capacity,
        total=len(lines),
        by_class=by_class,
        samples=lines[offset : offset + limit],
    )
