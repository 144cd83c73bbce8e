"""The REST interface of a campaign, under ``/api/v1``: the batch, decisions, results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from everlearn.discovery import Telling
from everlearn.server import schemas
from everlearn.server.campaign_desk import CampaignDesk
from everlearn.server.security import Actor

discovery_api = APIRouter(
    prefix="/api/v1",
    responses={code: {"model": schemas.Error} for code in (400, 401, 403, 404, 409, 413, 421, 422, 429, 503)},
)
Text = Annotated[str, Field(min_length=1, max_length=2000)]


def desk_of(request: Request) -> CampaignDesk:
    """The server's desk."""
    return request.app.state.desk


def actor_of(request: Request) -> Actor:
    """Who asks."""
    return desk_of(request).gate.actor(request)


TheCampaign = Annotated[CampaignDesk, Depends(desk_of)]
Who = Annotated[Actor, Depends(actor_of)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DecisionGiven(_Given):
    """What is decided on a candidate."""

    candidate: Text
    verdict: Literal["accept", "reject", "undo"]
    note: str = Field("", max_length=500)


class ResultGiven(_Given):
    """What an experiment found; a value as written, by target, in the pool's unit."""

    candidate: Text
    values: dict[str, Annotated[str, Field(max_length=100)]] = Field(max_length=100)
    key: str = Field(min_length=8, max_length=100, description="the same key counts once")


class DecisionLine(BaseModel):
    """The decision that holds now; none after an undo."""

    candidate: str
    verdict: str | None
    note: str = ""
    by: str = ""


class ResultLine(BaseModel):
    """One telling: its number takes it back."""

    number: int
    source: str
    at: float
    results: list[tuple[str, list[float | None]]]


class ResultSaved(BaseModel):
    """It is on disk."""

    candidate: str
    again: bool = Field(description="this key was entered already; nothing changed")
    repeat: bool = Field(description="the candidate was measured before; the values are averaged")


class BatchLine(BaseModel):
    """The last batch that was proposed."""

    number: int
    working: bool = Field(description="the next one is being worked out")
    fault: str | None
    proposals: list[dict[str, Any]]


class CampaignHealth(BaseModel):
    """Whether it works."""

    status: str
    batch: int
    working: bool


@discovery_api.get("/batch")
def batch(desk: TheCampaign, who: Who) -> BatchLine:
    """The last batch, with expected values, intervals and reasons."""
    number, views = desk.batch()
    return BatchLine(number=number, working=desk.working, fault=desk.fault, proposals=views)


@discovery_api.post("/batch", status_code=202)
def next_batch(desk: TheCampaign, who: Who) -> BatchLine:
    """Begin to work out the next batch, with all that is known."""
    who.needs("reviewer")
    desk.propose()
    return batch(desk, who)


@discovery_api.post("/decisions", status_code=201)
def decide(desk: TheCampaign, who: Who, given: DecisionGiven) -> DecisionLine:
    """Accept or reject a candidate, or undo that. The answer comes once it is durable."""
    who.needs("reviewer")
    name = desk.known(given.candidate)
    held = desk.decide(name, given.verdict, given.note, who)
    if held is None:
        return DecisionLine(candidate=name, verdict=None)
    return DecisionLine(candidate=name, verdict=held.verdict, note=held.note, by=held.by)


@discovery_api.get("/results")
def results(desk: TheCampaign, who: Who) -> list[ResultLine]:
    """What was told, newest first."""
    return [_line(each) for each in reversed(desk.campaign.told)]


@discovery_api.post("/results", status_code=201)
def tell(desk: TheCampaign, who: Who, given: ResultGiven) -> ResultSaved:
    """Enter a result. The answer comes once it is durable."""
    who.needs("reviewer")
    told = desk.tell(given.candidate, given.values, given.key, who)
    return ResultSaved(candidate=desk.known(given.candidate), again=told.again, repeat=told.repeats > 0)


@discovery_api.delete("/results/{number}")
def take_back(desk: TheCampaign, who: Who, number: Annotated[int, Path(ge=1, lt=2**62)]) -> list[ResultLine]:
    """Take a telling back."""
    who.needs("reviewer")
    desk.campaign.take_back(number, who.name)
    return results(desk, who)


@discovery_api.get("/health")
def health(desk: TheCampaign) -> CampaignHealth:
    """Whether it works; asks for no token."""
    return CampaignHealth(status="degraded" if desk.fault else "ok", batch=desk.batch()[0], working=desk.working)


def _line(telling: Telling) -> ResultLine:
    return ResultLine(
        number=telling.number,
        source=telling.source,
        at=telling.at,
        results=[(each.candidate, list(each.values)) for each in telling.results],
    )
