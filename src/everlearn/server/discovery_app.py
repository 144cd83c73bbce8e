"""The application of a campaign: its desk, API and pages."""

from __future__ import annotations

from fastapi import FastAPI

from everlearn.server.app import application
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
    desk, what = CampaignDesk(settings), "Propose, decide, measure, learn."
    return application("Everlearn discovery", what, desk, settings, discovery_api, discovery_pages)
