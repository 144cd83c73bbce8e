"""What a route may ask for: the server's desk, who asks, and ids of a form that cannot be abused."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from everlearn.runs.reviews import CASE_ID
from everlearn.server.desk import Desk
from everlearn.server.security import Actor

Number = Annotated[int, Path(ge=1, lt=2**62)]
SampleId = Annotated[int, Path(ge=0, lt=2**62)]
CaseId = Annotated[str, Path(pattern=CASE_ID)]


def desk_of(request: Request) -> Desk:
    """The server's desk."""
    return request.app.state.desk


def actor_of(request: Request) -> Actor:
    """Who asks."""
    return desk_of(request).gate.actor(request)


TheDesk = Annotated[Desk, Depends(desk_of)]
Who = Annotated[Actor, Depends(actor_of)]
