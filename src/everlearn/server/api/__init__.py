"""The REST interface under ``/api/v1``."""

from fastapi import APIRouter

from everlearn.server import schemas
from everlearn.server.api.state import state
from everlearn.server.api.work import work

api = APIRouter(
    prefix="/api/v1",
    responses={code: {"model": schemas.Error} for code in (400, 401, 403, 404, 413, 421, 422, 429, 503)},
)
api.include_router(work)
api.include_router(state)
