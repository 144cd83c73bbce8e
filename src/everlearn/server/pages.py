"""The pages: worklist, case, memory, dashboard, sign-in; rendered here, in English or Korean."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Annotated, Any

import jinja2
import torch
from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from everlearn.server import charts
from everlearn.server.api import CaseId, TheDesk, Who, heat_map, version_lines
from everlearn.server.cases import as_url, to_png
from everlearn.server.desk import Desk
from everlearn.server.memory_view import remembered
from everlearn.server.security import COOKIE, SESSION_SECONDS, Actor
from everlearn.server.texts import LANGUAGES, translator
from everlearn.server.words import words_in

pages = APIRouter(include_in_schema=False)
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("everlearn.server"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
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
    language = _language(request)
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


@pages.get("/login")
def login(request: Request, desk: TheDesk) -> Response:
    """Sign in with a token."""
    return _page(request, desk, None, "login.html", wrong=False)


@pages.post("/login")
def sign_in(request: Request, desk: TheDesk, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Begin a session."""
    desk.gate.same_site(request)
    if desk.gate.tokens.actor(token.strip()) is None:
        time.sleep(0.5)  # guessing shall not be quick
        return _page(request, desk, None, "login.html", status=401, wrong=True)
    answer = RedirectResponse("/", status_code=303)
    _set_cookie(request, answer, desk.gate.begin(token.strip()))
    return answer


@pages.post("/logout")
def sign_out(request: Request, desk: TheDesk) -> Response:
    """End the session."""
    desk.gate.same_site(request)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@pages.get("/favicon.ico")
def icon() -> Response:
    """None."""
    return Response(status_code=204)


def error_page(request: Request, status: int, line: str) -> Response:
    """One line that says what is wrong."""
    return _page(request, request.app.state.desk, None, "message.html", status=status, line=line)


def _page(request: Request, desk: Desk, who: Actor | None, name: str, status: int = 200, **shown: Any) -> Response:
    language, theme = _language(request), request.cookies.get("theme", "")
    session, cookie = None, None
    if who is not None:
        found = desk.gate.session(request)
        if found is None and desk.settings.local:
            cookie, found = desk.gate.begin_local()
        session = found.session if found else None
    page = _PAGES.get_template(name).render(
        t=translator(language),
        lang=language,
        languages=LANGUAGES,
        theme=theme if theme in ("light", "dark") else "",
        run=desk.name,
        who=who,
        csrf=desk.gate.csrf(session) if session else "",
        version=desk.service.current.number,
        path=request.url.path,
        local=desk.settings.local,
        state=_state,
        when=lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)),
        **shown,
    )
    answer = HTMLResponse(page, status_code=status)
    if cookie is not None:
        _set_cookie(request, answer, cookie)
    return answer


def _state(row: sqlite3.Row) -> str:
    """What became of a verdict, as a text's key."""
    if row["status"] == "learn":
        return "waiting" if row["step"] is None else "is_learned"
    return str(row["status"])


def _set_cookie(request: Request, answer: Response, value: str) -> None:
    answer.set_cookie(
        COOKIE, value, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


def _language(request: Request) -> str:
    chosen = request.cookies.get("lang", "")
    if chosen in LANGUAGES:
        return chosen
    return "ko" if request.headers.get("accept-language", "").lower().startswith("ko") else "en"


def _by_task(matrix: list[list[float | None]]) -> list[tuple[int, float, str]]:
    rows = [[a for a in row if a is not None] for row in matrix]
    return [(number, sum(row) / len(row), "retired") for number, row in enumerate(rows, 1) if row]


def _natural(name: str) -> tuple[int, int | str]:
    return (0, int(name)) if name.isdigit() and len(name) < 10 else (1, name.lower())
