"""From what the desk knows to what the API gives."""

from __future__ import annotations

import json

import torch

from everlearn.errors import NotFoundError
from everlearn.explainers import Explanation
from everlearn.runs.database import Row
from everlearn.server import schemas
from everlearn.server.desk import Desk
from everlearn.server.worklist import Score


def version_lines(desk: Desk) -> list[schemas.VersionLine]:
    """Versions, newest first."""
    there = desk.kept()
    return [
        schemas.VersionLine(
            number=v["number"],
            at=v["at"],
            status=v["status"],
            reason=v["reason"],
            reviews=v["reviews"],
            step=v["step"],
            checked=v["checked"],
            accuracy=v["accuracy"],
            by_class=json.loads(v["by_class"]),
            temperature=v["temperature"],
            kept=v["number"] in there,
        )
        for v in reversed(desk.reviews.versions())
    ]


def explained(desk: Desk, name: str, picture: torch.Tensor, target: str | None, method: str) -> schemas.Explained:
    """Why, for a picture; a name keeps it for the next look."""
    served, e = desk.service.explain(name, picture, target, method)
    return schemas.Explained(
        version=served.number,
        label=served.names[e.code],
        probability=e.probability,
        words=e.words,
        verdict=e.verdict,
        insertion=e.faithfulness.insertion,
        deletion=e.faithfulness.deletion,
        random_insertion=e.faithfulness.random_insertion,
        random_deletion=e.faithfulness.random_deletion,
        evidence=[
            schemas.Remembered(id=x.id, label=served.names[x.code], share=x.value, step=x.step, distance=x.distance)
            for x in e.evidence or []
        ],
        map=heat_map(e),
    )


def heat_map(e: Explanation) -> list[list[float]]:
    """Rows of the map, 0..1 in three decimals."""
    heat = e.map[0].clamp(min=0)
    thousandths = (heat / heat.max().clamp(min=1e-12)).mul(1000).round().int()
    return [[n / 1000 for n in row] for row in thousandths.tolist()]


def scored(score: Score) -> schemas.Scored:
    """What a version says of a case."""
    return schemas.Scored(
        version=score.version,
        label=score.label,
        probability=score.probability,
        doubt=score.doubt,
        novelty=score.novelty,
    )


def review_line(desk: Desk, row: Row | None) -> schemas.ReviewLine:
    """A verdict, and whether it is learned and in service."""
    if row is None:
        raise NotFoundError("there is no such review; see /api/v1/reviews")
    box = json.loads(row["box"]) if row["box"] else None
    learned = row["step"] is not None and row["status"] == "learn"
    in_service = False
    if learned:
        served = desk.reviews.in_service()
        in_service = (
            served is not None and served["number"] <= desk.service.current.number and served["step"] >= row["step"]
        )
    return schemas.ReviewLine(
        number=row["number"],
        at=row["at"],
        actor=row["actor"],
        case_id=row["case_id"],
        verdict=row["verdict"],
        label=row["label"],
        said=row["said_label"],
        version=row["version"],
        note=row["note"],
        box=schemas.Box(x=box[0], y=box[1], width=box[2], height=box[3]) if box else None,
        patient=row["patient"],
        status=row["status"],
        learned=learned,
        step=row["step"],
        in_service=in_service,
    )


def order_line(desk: Desk, number: int) -> schemas.OrderLine:
    """What became of something asked of the writer."""
    row = desk.reviews.db.row("SELECT * FROM orders WHERE number = ?", number)
    if row is None:
        raise NotFoundError(f"there is no order {number}")
    return schemas.OrderLine(
        number=number,
        kind=row["kind"],
        done=row["done"] is not None,
        answer=json.loads(row["answer"]) if row["answer"] else None,
    )
