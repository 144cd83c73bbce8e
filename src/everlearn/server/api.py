"""The REST interface under ``/api/v1``."""

from __future__ import annotations

import json
import sqlite3
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile

from everlearn.errors import DataError
from everlearn.explainers import Explanation
from everlearn.server import schemas
from everlearn.server.cases import to_png
from everlearn.server.desk import Desk
from everlearn.server.memory_view import remembered
from everlearn.server.security import Actor

api = APIRouter(
    prefix="/api/v1",
    responses={code: {"model": schemas.Error} for code in (400, 401, 403, 404, 413, 421, 422, 429, 503)},
)
Number = Annotated[int, Path(ge=1, lt=2**62)]
CaseId = Annotated[str, Path(pattern=r"^[su]\d{1,12}$")]
_FILES = 64


def desk_of(request: Request) -> Desk:
    """The server's desk."""
    return request.app.state.desk


def actor_of(request: Request) -> Actor:
    """Who asks."""
    return desk_of(request).gate.actor(request)


TheDesk = Annotated[Desk, Depends(desk_of)]
Who = Annotated[Actor, Depends(actor_of)]


@api.post("/predict")
def predict(
    desk: TheDesk, who: Who, files: Annotated[list[UploadFile], File(description="pictures or DICOM files, at most 64")]
) -> schemas.Predictions:
    """Classes and calibrated probabilities of pictures, by the version in service. No picture is stored."""
    if len(files) > _FILES:
        raise DataError(f"{len(files)} files in one request; expected at most {_FILES}")
    pictures = [torch.from_numpy(desk.cases.read(file.file.read())[0]) for file in files]
    served, probabilities = desk.service.predict(torch.stack(pictures))
    found = []
    for number, row in enumerate(probabilities):
        best = int(row.argmax())
        desk.log.add(who.name, "sent", served.number, served.classes[best], float(row[best]))
        found.append(
            schemas.Predicted(
                name=f"file {number + 1}",
                label=served.classes[best],
                probability=float(row[best]),
                probabilities=dict(zip(served.classes, [float(p) for p in row])),
            )
        )
    return schemas.Predictions(version=served.number, predictions=found)


@api.post("/explain")
def explain(
    desk: TheDesk,
    who: Who,
    file: Annotated[UploadFile, File(description="a picture or DICOM file")],
    target: Annotated[str | None, Form(max_length=100)] = None,
    method: Annotated[str, Form(max_length=40)] = "sise",
) -> schemas.Explained:
    """Why: heat map, words, remembered cases, and how faithful the map was measured to be."""
    picture = torch.from_numpy(desk.cases.read(file.file.read())[0])
    return _explained(desk, "", picture, target, method)


@api.post("/cases", status_code=201)
def send_case(desk: TheDesk, who: Who, file: Annotated[UploadFile, File()]) -> schemas.CaseLine:
    """Put a picture or DICOM file on the worklist. Only its pixels are stored, and the patient as a pseudonym."""
    who.needs("reviewer")
    case = desk.cases.add(file.file.read())
    score = desk.worklist.score(case)
    desk.worklist.tell()
    return schemas.CaseLine(
        id=case.id, name=case.name, patient=case.patient, score=_scored(score), verdict=None, label=None
    )


@api.get("/worklist")
def worklist(
    desk: TheDesk,
    who: Who,
    order: Annotated[str, Query(max_length=20)] = "doubt",
    pending: bool = True,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.WorklistPage:
    """Cases, the most doubtful (or most novel) first."""
    entries = desk.worklist.entries(order, pending)
    lines = [
        schemas.CaseLine(
            id=e.case.id,
            name=e.case.name,
            patient=e.case.patient,
            score=_scored(e.score) if e.score else None,
            verdict=e.verdict,
            label=e.label,
        )
        for e in entries[offset : offset + limit]
    ]
    return schemas.WorklistPage(total=len(entries), cases=lines)


@api.get("/cases/{id}")
def case(desk: TheDesk, who: Who, id: CaseId) -> schemas.CaseLine:
    """One case, as the version in service sees it now."""
    found = desk.cases.get(id)
    score = desk.worklist.score(found)
    desk.log.add(who.name, id, score.version, score.label, score.probability)
    last = next(iter(desk.reviews.recent(case_id=id, limit=1)), None)
    return schemas.CaseLine(
        id=id,
        name=found.name,
        patient=found.patient,
        score=_scored(score),
        verdict=last["verdict"] if last else None,
        label=last["label"] if last else None,
    )


@api.get("/cases/{id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def case_picture(desk: TheDesk, who: Who, id: CaseId) -> Response:
    """The picture as PNG."""
    return Response(desk.cases.original(id), media_type="image/png")


@api.get("/cases/{id}/explanation")
def case_explanation(
    desk: TheDesk,
    who: Who,
    id: CaseId,
    target: Annotated[str | None, Query(max_length=100)] = None,
    method: Annotated[str, Query(max_length=40)] = "sise",
) -> schemas.Explained:
    """Why, for a case."""
    return _explained(desk, id, desk.cases.picture(id), target, method)


@api.post("/reviews", status_code=201)
def review(desk: TheDesk, who: Who, given: schemas.ReviewGiven) -> schemas.ReviewLine:
    """A verdict. The answer comes once it is durable; it is learned in order of arrival."""
    who.needs("reviewer")
    return _review_line(desk, desk.reviews.get(desk.review(given, who)["number"]))


@api.get("/reviews")
def reviews(
    desk: TheDesk,
    who: Who,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    case_id: Annotated[str | None, Query(pattern=r"^[su]\d{1,12}$")] = None,
) -> list[schemas.ReviewLine]:
    """Verdicts, newest first."""
    return [_review_line(desk, row) for row in desk.reviews.recent(case_id, before, limit)]


@api.get("/reviews/{number}")
def one_review(desk: TheDesk, who: Who, number: Number) -> schemas.ReviewLine:
    """A verdict, and whether it is learned and in service."""
    return _review_line(desk, desk.reviews.get(number))


@api.delete("/reviews/{number}")
def undo(desk: TheDesk, who: Who, number: Number) -> schemas.ReviewLine:
    """Take a verdict back; if it was learned, the others are learned again from before it."""
    who.needs("reviewer")
    desk.withdraw(number, who)
    return _review_line(desk, desk.reviews.get(number))


@api.get("/memory")
def memory(
    desk: TheDesk,
    who: Who,
    label: Annotated[str | None, Query(max_length=100)] = None,
    text: Annotated[str, Query(max_length=100)] = "",
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.MemoryPage:
    """What the version in service remembers."""
    return remembered(desk, label, text, offset, limit)


@api.get("/memory/{id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def memory_picture(desk: TheDesk, who: Who, id: Annotated[int, Path(ge=0, lt=2**62)]) -> Response:
    """A remembered sample as PNG."""
    held = desk.service.current.learner.memory
    slots = torch.nonzero(held.ids[: held.size] == id).flatten()
    if not len(slots):
        raise DataError(f"sample {id} is not remembered; see /api/v1/memory")
    return Response(to_png(held.take(slots[:1]).inputs[0]), media_type="image/png")


@api.delete("/memory/{id}", status_code=202)
def remove(desk: TheDesk, who: Who, id: Annotated[int, Path(ge=0, lt=2**62)]) -> schemas.OrderLine:
    """Take a sample out of memory, for good."""
    who.needs("admin")
    return _order_line(desk, desk.order("remove", {"ids": [id]}, who))


@api.get("/versions")
def versions(desk: TheDesk, who: Who) -> list[schemas.VersionLine]:
    """Versions, newest first."""
    return version_lines(desk)


@api.post("/versions/{number}/serve", status_code=202)
def serve(desk: TheDesk, who: Who, number: Number) -> schemas.OrderLine:
    """Roll back: put an earlier version in service and learn on from it."""
    who.needs("admin")
    return _order_line(desk, desk.order("roll back", {"version": number}, who))


@api.get("/orders/{number}")
def order(desk: TheDesk, who: Who, number: Number) -> schemas.OrderLine:
    """What became of something asked of the writer."""
    return _order_line(desk, number)


@api.get("/metrics")
def metrics(desk: TheDesk, who: Who) -> schemas.Metrics:
    """Figures of the moment."""
    counts = desk.reviews.rows(
        "SELECT COUNT(*) AS n, COALESCE(SUM(verdict = 'correct'), 0) AS c FROM reviews WHERE status != 'forgotten'"
    )[0]
    return schemas.Metrics(
        version=desk.service.current.number,
        queue=desk.reviews.queue(),
        reviews=counts["n"],
        corrections=counts["c"],
        predictions=desk.log.count,
        predict_p50_ms=desk.percentile(0.5),
        predict_p95_ms=desk.percentile(0.95),
        accuracy_matrix=desk.matrix,
        forgetting=desk.forgetting(),
        alarms=desk.alarms(),
    )


@api.get("/audit")
def audit(
    desk: TheDesk,
    who: Who,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[schemas.AuditLine]:
    """Entries of the audit log, newest first."""
    who.needs("admin")
    rows = desk.reviews.rows(
        "SELECT * FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?", before or 1 << 62, limit
    )
    return [schemas.AuditLine(**dict(row)) for row in rows]


@api.get("/audit/verify")
def verify(desk: TheDesk, who: Who) -> schemas.AuditCheck:
    """Walk the audit log's chain."""
    who.needs("admin")
    found = desk.reviews.verify_audit()
    return schemas.AuditCheck(entries=found.entries, last=found.last, fault=found.fault)


@api.get("/health")
def health(desk: TheDesk) -> schemas.Health:
    """Whether it works; asks for no token."""
    faults = [fault for fault in (desk.service.fault, desk.writer.fault if desk.writer else None) if fault]
    writer = "elsewhere" if desk.writer is None else ("restarting" if desk.writer.fault else "running")
    return schemas.Health(
        status="degraded" if faults else "ok",
        version=desk.service.current.number,
        queue=desk.reviews.queue(),
        writer=writer,
        faults=faults,
    )


def version_lines(desk: Desk) -> list[schemas.VersionLine]:
    """Versions, newest first."""
    from everlearn.runs import versions as kept

    there = set(kept.there(desk.settings.run))
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


def _explained(desk: Desk, name: str, picture: torch.Tensor, target: str | None, method: str) -> schemas.Explained:
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


def _scored(score: Any) -> schemas.Scored:
    return schemas.Scored(
        version=score.version,
        label=score.label,
        probability=score.probability,
        doubt=score.doubt,
        novelty=score.novelty,
    )


def _review_line(desk: Desk, row: sqlite3.Row | None) -> schemas.ReviewLine:
    if row is None:
        raise DataError("there is no such review; see /api/v1/reviews")
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


def _order_line(desk: Desk, number: int) -> schemas.OrderLine:
    rows = desk.reviews.rows("SELECT * FROM orders WHERE number = ?", number)
    if not rows:
        raise DataError(f"there is no order {number}")
    row = rows[0]
    return schemas.OrderLine(
        number=number,
        kind=row["kind"],
        done=row["done"] is not None,
        answer=json.loads(row["answer"]) if row["answer"] else None,
    )
