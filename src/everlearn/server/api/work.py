"""Predicting, explaining, cases and verdicts."""

from __future__ import annotations

from typing import Annotated

import torch
from fastapi import APIRouter, File, Form, Query, Response, UploadFile

from everlearn.errors import DataError
from everlearn.runs.reviews import CASE_ID
from everlearn.server import schemas
from everlearn.server.answers import explained, review_line, scored
from everlearn.server.api.asks import CaseId, Number, TheDesk, Who

work = APIRouter()
_FILES = 64


@work.post("/predict")
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


@work.post("/explain")
def explain(
    desk: TheDesk,
    who: Who,
    file: Annotated[UploadFile, File(description="a picture or DICOM file")],
    target: Annotated[str | None, Form(max_length=100)] = None,
    method: Annotated[str, Form(max_length=40)] = "sise",
) -> schemas.Explained:
    """Why: heat map, words, remembered cases, and how faithful the map was measured to be."""
    picture = torch.from_numpy(desk.cases.read(file.file.read())[0])
    found = explained(desk, "", picture, target, method)
    if target is None:
        desk.log.add(who.name, "sent", found.version, found.label, found.probability)
    return found


@work.post("/cases", status_code=201)
def send_case(desk: TheDesk, who: Who, file: Annotated[UploadFile, File()]) -> schemas.CaseLine:
    """Put a picture or DICOM file on the worklist. Only its pixels are stored, and the patient as a pseudonym."""
    who.needs("reviewer")
    case = desk.cases.add(file.file.read())
    score = desk.worklist.score(case)
    desk.log.add(who.name, case.id, score.version, score.label, score.probability)
    desk.worklist.tell()
    return schemas.CaseLine(
        id=case.id, name=case.name, patient=case.patient, score=scored(score), verdict=None, label=None
    )


@work.get("/worklist")
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
            score=scored(e.score) if e.score else None,
            verdict=e.verdict,
            label=e.label,
        )
        for e in entries[offset : offset + limit]
    ]
    return schemas.WorklistPage(total=len(entries), cases=lines)


@work.get("/cases/{id}")
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
        score=scored(score),
        verdict=last["verdict"] if last else None,
        label=last["label"] if last else None,
    )


@work.get("/cases/{id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def case_picture(desk: TheDesk, who: Who, id: CaseId) -> Response:
    """The picture as PNG."""
    return Response(desk.cases.original(id), media_type="image/png")


@work.get("/cases/{id}/explanation")
def case_explanation(
    desk: TheDesk,
    who: Who,
    id: CaseId,
    target: Annotated[str | None, Query(max_length=100)] = None,
    method: Annotated[str, Query(max_length=40)] = "sise",
) -> schemas.Explained:
    """Why, for a case."""
    found = explained(desk, id, desk.cases.picture(id), target, method)
    if target is None:
        desk.log.add(who.name, id, found.version, found.label, found.probability)
    return found


@work.post("/reviews", status_code=201)
def review(desk: TheDesk, who: Who, given: schemas.ReviewGiven) -> schemas.ReviewLine:
    """A verdict. The answer comes once it is durable; it is learned in order of arrival."""
    who.needs("reviewer")
    return review_line(desk, desk.reviews.get(desk.review(given, who)["number"]))


@work.get("/reviews")
def reviews(
    desk: TheDesk,
    who: Who,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    case_id: Annotated[str | None, Query(pattern=CASE_ID)] = None,
) -> list[schemas.ReviewLine]:
    """Verdicts, newest first."""
    return [review_line(desk, row) for row in desk.reviews.recent(case_id, before, limit)]


@work.get("/reviews/{number}")
def one_review(desk: TheDesk, who: Who, number: Number) -> schemas.ReviewLine:
    """A verdict, and whether it is learned and in service."""
    return review_line(desk, desk.reviews.get(number))


@work.delete("/reviews/{number}")
def undo(desk: TheDesk, who: Who, number: Number) -> schemas.ReviewLine:
    """Take a verdict back; if it was learned, the others are learned again from before it."""
    who.needs("reviewer")
    desk.withdraw(number, who)
    return review_line(desk, desk.reviews.get(number))
