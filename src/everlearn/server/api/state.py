"""What it remembers, its versions, its figures, and what was done."""

from __future__ import annotations

from typing import Annotated

import torch
from fastapi import APIRouter, Query, Response

from everlearn.errors import NotFoundError
from everlearn.server import schemas
from everlearn.server.answers import order_line, version_lines
from everlearn.server.api.asks import Number, SampleId, TheDesk, Who
from everlearn.server.cases import to_png
from everlearn.server.memory_view import remembered

state = APIRouter()


@state.get("/memory")
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


@state.get("/memory/{id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def memory_picture(desk: TheDesk, who: Who, id: SampleId) -> Response:
    """A remembered sample as PNG."""
    held = desk.service.current.learner.memory
    slots = torch.nonzero(held.ids[: held.size] == id).flatten()
    if not len(slots):
        raise NotFoundError(f"sample {id} is not remembered; see /api/v1/memory")
    return Response(to_png(held.take(slots[:1]).inputs[0]), media_type="image/png")


@state.delete("/memory/{id}", status_code=202)
def remove(desk: TheDesk, who: Who, id: SampleId) -> schemas.OrderLine:
    """Take a sample out of memory, for good."""
    who.needs("admin")
    return order_line(desk, desk.order("remove", {"ids": [id]}, who))


@state.get("/versions")
def versions(desk: TheDesk, who: Who) -> list[schemas.VersionLine]:
    """Versions, newest first."""
    return version_lines(desk)


@state.post("/versions/{number}/serve", status_code=202)
def serve(desk: TheDesk, who: Who, number: Number) -> schemas.OrderLine:
    """Roll back: put an earlier version in service and learn on from it."""
    who.needs("admin")
    return order_line(desk, desk.order("roll back", {"version": number}, who))


@state.get("/orders/{number}")
def order(desk: TheDesk, who: Who, number: Number) -> schemas.OrderLine:
    """What became of something asked of the writer."""
    return order_line(desk, number)


@state.get("/metrics")
def metrics(desk: TheDesk, who: Who) -> schemas.Metrics:
    """Figures of the moment."""
    counts = desk.reviews.rows(
        "SELECT COUNT(*) AS n, COUNT(CASE WHEN verdict = 'correct' THEN 1 END) AS c FROM reviews "
        "WHERE status != 'forgotten'"
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


@state.get("/audit")
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


@state.get("/audit/verify")
def verify(desk: TheDesk, who: Who) -> schemas.AuditCheck:
    """Walk the audit log's chain."""
    who.needs("admin")
    found = desk.reviews.verify_audit()
    return schemas.AuditCheck(entries=found.entries, last=found.last, fault=found.fault)


@state.get("/health")
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
