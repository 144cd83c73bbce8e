"""The application: the desk, the API, the pages, and what guards them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from everlearn.data.naming import writable
from everlearn.errors import EverlearnError, NotFoundError, RunError, SettingError, TakenError
from everlearn.server.api import api
from everlearn.server.bounds import Bounds
from everlearn.server.desk import Desk
from everlearn.server.pages import pages
from everlearn.server.rendering import error_page, sign_in_pages
from everlearn.server.security import Refused
from everlearn.server.settings import Settings

if TYPE_CHECKING:
    from everlearn.server.campaign_desk import CampaignDesk

_STATIC = Path(__file__).parent / "static"


def create_app(settings: Settings) -> FastAPI:
    """Build the server of a run. The writer starts with the application and ends with it.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    RunError
        If the run cannot be opened, is being written to by another process, or has no checkpoint.
    SettingError
        If it is to listen beyond loopback and has no token.
    """
    return application("Everlearn", "Predict, explain, review, learn.", Desk(settings), settings, api, pages)


def application(
    title: str, description: str, desk: Desk | CampaignDesk, settings: Settings, *routers: APIRouter
) -> FastAPI:
    """What every server of ours has: its desk, sign-in, static files, bounds, and one line for whatever is wrong."""
    if not settings.local and not desk.gate.tokens.all():
        desk.close()
        raise SettingError(
            f"{settings.host} can be reached from elsewhere, and the run has no token; make one first: "
            f"everlearn token {settings.run} --name NAME --role reviewer"
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title=title,
        version="1",
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.desk = desk
    for router in routers:
        app.include_router(router)
    app.include_router(sign_in_pages)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_middleware(Bounds, settings=settings)
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(EverlearnError)
    async def own(request: Request, error: EverlearnError) -> Response:
        line = writable(" ".join(str(error).split()))
        if isinstance(error, RunError):
            status = 503
        else:
            status = 404 if isinstance(error, NotFoundError) else 409 if isinstance(error, TakenError) else 422
        return _told(request, status, line)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        if error.status == 401 and not request.url.path.startswith("/api/") and request.method == "GET":
            return RedirectResponse("/login", status_code=303)
        headers = None if error.wait is None else {"retry-after": str(error.wait)}
        return _told(request, error.status, error.line, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _told(request, 422, f"{where}: {first['msg'][0].lower() + first['msg'][1:]}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _told(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _told(request: Request, status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": line}, status_code=status, headers=headers)
    return error_page(request, status, line)
