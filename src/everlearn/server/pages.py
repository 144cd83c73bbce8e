"""The pages: worklist, case, memory, dashboard."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from everlearn.runs.database import Row
from everlearn.server import charts
from everlearn.server.answers import heat_map, version_lines
from everlearn.server.api.asks import CaseId, TheDesk, Who
from everlearn.server.cases import as_url, to_png
from everlearn.server.desk import Desk
from everlearn.server.memory_view import remembered
from everlearn.server.rendering import language_of, render
from everlearn.server.security import Actor
from everlearn.server.words import words_in

pages = APIRouter(include_in_schema=False)
_PER_PAGE = 60


@pages.get("/")
def worklist(
    request: Request,
    desk: TheDesk,
    who: Who,
    order: Annotated[str, Query(max_length=20)] = "doubt",
    show: Annotated[str, Query(max_length=20)] = "open",
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
) -> Response:
    """Cases to look at."""
    entries = desk.worklist.entries(order, pending=show == "open")
    shown = entries[(page - 1) * _PER_PAGE : page * _PER_PAGE]
    return _page(
        request,
        desk,
        who,
        "worklist.html",
        entries=shown,
        total=len(entries),
        order=order,
        show=show,
        page=page,
        last=max(1, -(-len(entries) // _PER_PAGE)),
    )


@pages.get("/case/{id}")
def case(
    request: Request, desk: TheDesk, who: Who, id: CaseId, order: Annotated[str, Query(max_length=20)] = "doubt"
) -> Response:
    """One case."""
    found, served = desk.cases.get(id), desk.service.current
    picture = desk.cases.picture(id)
    served, probabilities = desk.service.predict(picture[None])
    row = probabilities[0]
    best = int(row.argmax())
    desk.log.add(who.name, id, served.number, served.classes[best], float(row[best]))
    ranked = sorted(zip(served.classes, row.tolist()), key=lambda pair: -pair[1])
    reviews = desk.reviews.recent(case_id=id, limit=20)
    return _page(
        request,
        desk,
        who,
        "case.html",
        case=found,
        said=served.classes[best],
        ranked=ranked,
        classes=sorted(served.names.values(), key=_natural),
        digits=any(len(name) == 1 and name.isdigit() for name in served.names.values()),
        reviews=reviews,
        order=order,
        next=desk.worklist.next_after(id, order),
        served=served,
        shape=desk.service.shape,
    )


@pages.get("/case/{id}/why")
def why(
    request: Request, desk: TheDesk, who: Who, id: CaseId, target: Annotated[str | None, Query(max_length=100)] = None
) -> Response:
    """Words, verdict and remembered cases: a part of the case's page."""
    served, e = desk.service.explain(id, desk.cases.picture(id), target or None)
    language = language_of(request)
    held = served.learner.memory
    slots = {id_: slot for slot, id_ in enumerate(held.ids[: held.size].tolist())}
    return _page(
        request,
        desk,
        who,
        "why.html",
        e=e,
        map=json.dumps(heat_map(e)),
        pictures={x.id: as_url(to_png(held.take(torch.tensor([slots[x.id]])).inputs[0])) for x in e.evidence or []},
        served=served,
        names=served.names,
        words=words_in(language, e, lambda c: served.names[c]),
    )


@pages.get("/memory")
def memory(
    request: Request,
    desk: TheDesk,
    who: Who,
    label: Annotated[str, Query(max_length=100)] = "",
    search: Annotated[str, Query(max_length=100)] = "",
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
) -> Response:
    """What it remembers."""
    found = remembered(desk, label or None, search, (page - 1) * _PER_PAGE, _PER_PAGE)
    last = max(1, -(-found.total // _PER_PAGE))
    return _page(request, desk, who, "memory.html", memory=found, label=label, search=search, page=page, last=last)


@pages.get("/dashboard")
def dashboard(request: Request, desk: TheDesk, who: Who) -> Response:
    """How it is doing."""
    versions = version_lines(desk)
    served = desk.service.current
    held = served.learner.memory
    shown = [v for v in reversed(versions) if v.accuracy is not None][-60:]
    return _page(
        request,
        desk,
        who,
        "dashboard.html",
        versions=versions[:40],
        queue=desk.reviews.queue(),
        alarms=desk.alarms(),
        served=served,
        accuracy=charts.line([(v.number, v.accuracy, v.status) for v in shown if v.accuracy is not None]),
        tasks=charts.line(_by_task(desk.matrix)),
        by_class=charts.bars(list(zip(served.classes, held.counts.tolist()))),
        by_age=charts.bars(charts.ages(held.steps[: held.size].tolist(), served.learner.step)),
        forgetting=desk.forgetting(),
        lost=charts.line(desk.forgettings()[-60:]),
        reviews=desk.reviews.recent(limit=15),
        p50=desk.percentile(0.5),
        p95=desk.percentile(0.95),
        predictions=desk.log.count,
    )


def _page(request: Request, desk: Desk, who: Actor, name: str, **shown: Any) -> Response:
    return render(request, who, name, version=desk.service.current.number, state=_state, **shown)


def _state(row: Row) -> str:
    """What became of a verdict, as a text's key."""
    if row["status"] == "learn":
        return "waiting" if row["step"] is None else "is_learned"
    return str(row["status"])


def _by_task(matrix: list[list[float | None]]) -> list[tuple[int, float, str]]:
    rows = [[a for a in row if a is not None] for row in matrix]
    return [(number, sum(row) / len(row), "retired") for number, row in enumerate(rows, 1) if row]


def _natural(name: str) -> tuple[int, int | str]:
    return (0, int(name)) if name.isdigit() and len(name) < 10 else (1, name.lower())
