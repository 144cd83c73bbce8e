"""The pages of a campaign: the batch with reasons, to accept, reject and enter results; what was entered."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from everlearn.discovery import molecules
from everlearn.discovery.view import View
from everlearn.server.campaign_desk import CampaignDesk
from everlearn.server.discovery_api import TheCampaign, Who
from everlearn.server.discovery_words import reasons_in
from everlearn.server.rendering import language_of, render
from everlearn.server.texts import translator

discovery_pages = APIRouter(include_in_schema=False)


@discovery_pages.get("/")
def batch(request: Request, desk: TheCampaign, who: Who) -> Response:
    """The batch."""
    number, views = desk.batch()
    values, decisions = desk.values(), desk.campaign.decisions
    names = {view["name"] for view in views}
    units = desk.campaign.pool.units

    def state(name: str) -> str:
        return "measured" if name in values else f"{decisions[name].verdict}ed" if name in decisions else "open"

    language = language_of(request)
    return render(
        request,
        who,
        "batch.html",
        number=number,
        cards=[
            {"view": _drawn(desk, view), "state": state(view["name"]), "words": reasons_in(language, view, units)}
            for view in views
        ],
        decisions=decisions,
        values=values,
        targets=desk.campaign.config.targets,
        units=units,
        head=_head(desk, language, values),
        open=sum(state(name) == "open" for name in names),
        waiting=[d for d in decisions.values() if d.verdict == "accept" and d.candidate not in values.keys() | names],
        rejected=[d for d in decisions.values() if d.verdict == "reject" and d.candidate not in names],
        unstable=desk.campaign.unstable,
        working=desk.working,
        fault=desk.fault,
    )


@discovery_pages.get("/results")
def results(request: Request, desk: TheCampaign, who: Who) -> Response:
    """What was entered, newest first."""
    campaign = desk.campaign
    return render(
        request,
        who,
        "results.html",
        tellings=list(reversed(campaign.told)),
        targets=campaign.config.targets,
        units=campaign.pool.units,
        own=len(campaign.pool.measured),
        aside=campaign.aside,
    )


@discovery_pages.get("/charts/{what}.svg")
def chart(desk: TheCampaign, who: Who, what: str) -> Response:
    """Progress, or the map of the pool."""
    charts = {"progress": desk.progress, "map": desk.pool_map}
    found = charts[what]() if what in charts else ""
    return Response(found, media_type="image/svg+xml", status_code=200 if found else 404)


def _drawn(desk: CampaignDesk, view: View) -> View:
    """The view with its structures drawn, as addresses of pictures."""

    def draw(text: str, weights: Sequence[float] | None = None, size: tuple[int, int] = (300, 220)) -> str:
        if desk.campaign.pool.inputs != "smiles":
            return ""
        return "data:image/svg+xml;base64," + b64encode(molecules.draw(text, weights, size).encode()).decode()

    cases = {
        side: [each | {"picture": draw(each["text"], size=(140, 100))} for each in view[side]]
        for side in ("cases_for", "cases_against")
    }
    return view | cases | {"picture": draw(view["text"], view["weights"])}


def _head(desk: CampaignDesk, language: str, values: dict[str, list[Any]]) -> list[str]:
    """How far the campaign is, in a few words."""
    t = translator(language)
    found = [t("measured_of", len(values), len(desk.campaign.pool.candidates))]
    for k, target in enumerate(desk.campaign.config.targets):
        known = [np.mean(own) for each in values.values() if (own := [v[k] for v in each if v[k] is not None])]
        found.append(t("wanted_small" if target.minimise else "wanted_large", target.name))
        if known:
            unit = desk.campaign.pool.units[target.name]
            best = min(known) if target.minimise else max(known)
            found[-1] += " (" + t("best_so_far", f"{best:.4g} {unit}".strip()) + ")"
    return found
