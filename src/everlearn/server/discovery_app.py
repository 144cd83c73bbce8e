"""The application of a campaign: its desk, API and pages, guarded as every server of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from everlearn.errors import SettingError
from everlearn.server.app import guarded
from everlearn.server.campaign_desk import CampaignDesk
from everlearn.server.discovery_api import discovery_api
from everlearn.server.discovery_pages import discovery_pages
from everlearn.server.settings import Settings


def create_discovery_app(settings: Settings) -> FastAPI:
    """Build the server of a campaign.

    Raises
    ------
    RunError
        If the run cannot be opened, or is in use by another process.
    SettingError
        If it is to listen beyond loopback and has no token.
    """
    desk = CampaignDesk(settings)
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
        title="Everlearn discovery",
        version="1",
        description="Propose, decide, measure, learn.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.desk = desk
    app.include_router(discovery_api)
    app.include_router(discovery_pages)
    return guarded(app, settings)
