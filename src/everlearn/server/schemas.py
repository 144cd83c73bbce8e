"""What the API takes and gives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from everlearn.runs.reviews import CASE_ID

Share = Annotated[float, Field(ge=0, le=1)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Error(BaseModel):
    """What went wrong, in one line."""

    detail: str


class Predicted(BaseModel):
    """One picture's prediction."""

    name: str
    label: str
    probability: float = Field(description="calibrated")
    probabilities: dict[str, float]


class Predictions(BaseModel):
    """Predictions of one request, all by one version."""

    version: int
    predictions: list[Predicted]


class Remembered(BaseModel):
    """A remembered sample that speaks for or against."""

    id: int
    label: str
    share: float = Field(description="its KNN-Shapley value; below 0 it speaks against")
    step: int
    distance: float


class Explained(BaseModel):
    """Why."""

    version: int
    label: str
    probability: float
    words: str
    verdict: str = Field(description="supported, weak or not supported, as measured against random maps")
    insertion: float
    deletion: float
    random_insertion: float
    random_deletion: float
    evidence: list[Remembered]
    map: list[list[float]] = Field(description="rows of the heat map, 0..1")


class Scored(BaseModel):
    """What a version says of a case."""

    version: int
    label: str
    probability: float
    doubt: float
    novelty: float


class CaseLine(BaseModel):
    """A case on the worklist."""

    id: str
    name: str
    patient: str | None
    score: Scored | None
    verdict: str | None
    label: str | None


class WorklistPage(BaseModel):
    """Cases in order."""

    total: int
    cases: list[CaseLine]


class Box(_Given):
    """Where it really is, in shares of the picture."""

    x: Share
    y: Share
    width: Annotated[float, Field(gt=0, le=1)]
    height: Annotated[float, Field(gt=0, le=1)]


class ReviewGiven(_Given):
    """A verdict."""

    case_id: str = Field(pattern=CASE_ID)
    verdict: Literal["accept", "correct", "unsure"]
    label: str | None = Field(
        None, min_length=1, max_length=100, description="the true class for `correct`; a new name makes a new class"
    )
    said: str | None = Field(
        None, max_length=100, description="the class that was shown; by default what is predicted now"
    )
    version: int | None = Field(None, ge=1, lt=2**62)
    note: str = Field("", max_length=4000)
    box: Box | None = None
    key: str | None = Field(None, min_length=8, max_length=100, description="sent twice, it counts once")


class ReviewLine(BaseModel):
    """A verdict as it stands."""

    number: int
    at: float
    actor: str
    case_id: str
    verdict: str
    label: str | None
    said: str | None
    version: int | None
    note: str
    box: Box | None
    patient: str | None
    status: str = Field(description="learn (waiting or learned), check, unsure, set aside, withdrawn or forgotten")
    learned: bool
    step: int | None
    in_service: bool = Field(description="whether the version that predicts now has learned it")


class MemoryLine(BaseModel):
    """A remembered sample."""

    id: int
    label: str
    step: int
    name: str | None
    reviewed: bool


class MemoryPage(BaseModel):
    """What the version in service remembers."""

    version: int
    capacity: int
    total: int
    by_class: dict[str, int]
    samples: list[MemoryLine]


class VersionLine(BaseModel):
    """A version and how it did on the cases kept for checking."""

    number: int
    at: float
    status: str
    reason: str
    reviews: int
    step: int
    checked: int
    accuracy: float | None
    by_class: dict[str, float]
    temperature: float
    kept: bool


class Metrics(BaseModel):
    """Figures of the moment."""

    version: int
    queue: int
    reviews: int
    corrections: int
    predictions: int
    predict_p50_ms: float | None
    predict_p95_ms: float | None
    accuracy_matrix: list[list[float | None]]
    forgetting: float | None
    alarms: list[str]


class OrderLine(BaseModel):
    """Something asked of the writer."""

    number: int
    kind: str
    done: bool
    answer: dict[str, object] | None


class AuditLine(BaseModel):
    """An entry of the audit log."""

    number: int
    at: float
    actor: str
    action: str
    detail: str
    previous: str
    hash: str


class AuditCheck(BaseModel):
    """Whether the chain holds."""

    entries: int
    last: str
    fault: str | None


class Health(BaseModel):
    """Whether it works."""

    status: Literal["ok", "degraded"]
    version: int
    queue: int
    writer: str
    faults: list[str]
