"""What all pages share: templates, language, theme, session; sign-in; the line that says what is wrong.

The application's ``state.desk`` has a name, a gate and settings.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from everlearn.server.security import COOKIE, SESSION_SECONDS, Actor
from everlearn.server.texts import LANGUAGES, line_in, translator

sign_in_pages = APIRouter(include_in_schema=False)
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("everlearn.server"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(request: Request, who: Actor | None, name: str, status: int = 200, **shown: Any) -> Response:
    """A page by its template, in the reader's language; on a loopback address a session begins with it."""
    desk = request.app.state.desk
    language, theme = language_of(request), request.cookies.get("theme", "")
    session, cookie = None, None
    if who is not None:
        found = desk.gate.session(request)
        if found is None and desk.settings.local:
            cookie, found = desk.gate.begin_local()
        session = found.session if found else None
    page = _PAGES.get_template(name).render(
        t=translator(language),
        line=partial(line_in, language),
        lang=language,
        languages=LANGUAGES,
        theme=theme if theme in ("light", "dark") else "",
        run=desk.name,
        who=who,
        csrf=desk.gate.csrf(session) if session else "",
        path=request.url.path,
        local=desk.settings.local,
        when=lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)),
        **({"version": ""} | shown),
    )
    answer = HTMLResponse(page, status_code=status)
    if cookie is not None:
        _set_cookie(request, answer, cookie)
    return answer


def language_of(request: Request) -> str:
    """The language chosen on the page, else Korean where the browser asks for it, else English."""
    chosen = request.cookies.get("lang", "")
    if chosen in LANGUAGES:
        return chosen
    return "ko" if request.headers.get("accept-language", "").lower().startswith("ko") else "en"


def error_page(request: Request, status: int, line: str) -> Response:
    """One line that says what is wrong."""
    return render(request, None, "message.html", status=status, line=line)


@sign_in_pages.get("/login")
def login(request: Request) -> Response:
    """Sign in with a token."""
    return render(request, None, "login.html", wrong=False)


@sign_in_pages.post("/login")
def sign_in(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Begin a session."""
    gate = request.app.state.desk.gate
    gate.same_site(request)
    if gate.tokens.actor(token.strip()) is None:
        time.sleep(0.5)  # guessing shall not be quick
        return render(request, None, "login.html", status=401, wrong=True)
    answer = RedirectResponse("/", status_code=303)
    _set_cookie(request, answer, gate.begin(token.strip()))
    return answer


@sign_in_pages.post("/logout")
def sign_out(request: Request) -> Response:
    """End the session."""
    request.app.state.desk.gate.same_site(request)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@sign_in_pages.get("/favicon.ico")
def icon() -> Response:
    """None."""
    return Response(status_code=204)


def _set_cookie(request: Request, answer: Response, value: str) -> None:
    answer.set_cookie(
        COOKIE, value, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
