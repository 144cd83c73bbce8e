"""What a run was asked to do: typed, checked, and kept in the run's ``config.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everlearn.errors import RunError, SettingError, first_fault
from everlearn.kinds import kind_of

MOST_WORKERS = 64
"""Processes that may decode pictures: each is a whole Python with PyTorch, some 300 MB."""

_LARGEST_LR = 1e9  # a step's product with a gradient is still a float32

Role = Literal["path", "text", "label", "time", "task", "site", "patient", "split", "mask"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Part):
    """Where samples come from and how they are read."""

    source: str
    size: int | None = Field(None, ge=8, le=4096, description="height and width of the pictures, or bytes of a text")
    channels: Literal[1, 3] | None = None
    holdout: float = Field(0.2, gt=0, lt=1, description="share held out where the source has no test split")
    watch: bool = Field(False, description="the source is a folder whose files are learned as they arrive")
    root: str | None = Field(None, description="folder of torchvision's and MedMNIST's files")
    labels: str | None = Field(None, description="label CSV of a DICOM folder")
    columns: dict[Role, str] = Field(default_factory=dict, description="names of a manifest's columns")
    shifts: list[str] = Field(default_factory=list, description="domains that samples are dealt to, as by `domains`")
    long_tailed: float | None = Field(None, ge=1, description="samples of the first class over those of the last")
    wrong_labels: float | None = Field(None, ge=0, le=1, description="share of the labels to learn that is made wrong")

    @property
    def of_texts(self) -> bool:
        """Whether samples are texts: a column is named that holds them."""
        return "text" in self.columns


class StreamConfig(_Part):
    """In which order samples come."""

    scenario: Literal["class", "time", "site", "task", "blurred", "shuffled", "domain"] = "class"
    tasks: int = Field(5, ge=1)
    order: Literal["natural", "seeded"] = "natural"
    blur: float = Field(0.1, ge=0, description="of the scenario blurred, in lengths of a task")
    batch: int = Field(10, ge=1)


class LearnerConfig(_Part):
    """Who learns, with what memory."""

    method: str = "aser"
    backbone: str = Field("slim_resnet18", description="a network's name; for texts the folder of a sentence encoder")
    weights: str | None = Field(None, description="safetensors file for the backbone")
    pretrained: bool = False
    lr: float = Field(0.1, gt=0, le=_LARGEST_LR)
    memory: int = Field(1000, ge=1)
    replay: int | None = Field(None, ge=1, description="by default what the method's paper has")
    classifier: Literal["linear", "ncm"] | None = Field(None, description="by default the method's own")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    options: dict[str, Any] = Field(default_factory=dict, description="settings of the method itself")


class Rate(_Part):
    """A learning rate that a run went on with, from a step on."""

    step: int = Field(ge=1)
    lr: float = Field(gt=0, le=_LARGEST_LR)


class Continuation(_Part):
    """A further source that a run went on with, and the order of its samples."""

    data: DataConfig
    stream: StreamConfig = StreamConfig()


class Config(_Part):
    """All settings of a run.

    Examples
    --------
    >>> config = Config(data={"source": "builtin:digits"})
    >>> config.stream.tasks, config.learner.method
    (5, 'aser')
    """

    data: DataConfig
    stream: StreamConfig = StreamConfig()
    learner: LearnerConfig = LearnerConfig()
    seed: int = Field(0, ge=0, lt=2**31)
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    workers: int = Field(0, ge=0, le=MOST_WORKERS, description="processes that decode pictures")
    alarms: bool = Field(True, description="predict each batch before learning it, and tell of drift")
    chosen: dict[str, str] = Field(default_factory=dict, description="settings nobody gave: what was chosen, and why")
    more: list[Continuation] = Field(default_factory=list, description="sources that the run went on with")
    rates: list[Rate] = Field(default_factory=list, description="learning rates that the run went on with")
    database: str | None = Field(None, description="PostgreSQL that holds the journal, without user and password")
    store: str | None = Field(None, description="folder or object store that holds the versions as well, by URL")

    @property
    def parts(self) -> list[Continuation]:
        """All sources in the order of learning, the first one included."""
        return [Continuation(data=self.data, stream=self.stream), *self.more]

    def lr_at(self, step: int) -> float:
        """The learning rate of the step that follows so many.

        Examples
        --------
        >>> config = Config(data={"source": "builtin:digits"}, rates=[{"step": 100, "lr": 0.01}])
        >>> config.lr_at(99), config.lr_at(100)
        (0.1, 0.01)
        """
        return next((rate.lr for rate in reversed(self.rates) if rate.step <= step), self.learner.lr)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Config:
        """Check a dictionary of settings; raises `SettingError` that names the first bad one."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise SettingError(first_fault(error)) from error

    @classmethod
    def load(cls, file: Path) -> Config:
        """Read ``config.toml``."""
        try:
            return cls.parse(file.read_text(encoding="utf-8"), file)
        except FileNotFoundError as error:
            raise RunError(
                of_another_kind(file.parent) or f"{file.parent} is not a run: it has no {file.name}"
            ) from error
        except (UnicodeDecodeError, OSError) as error:
            raise RunError(f"cannot read {file}: {error}") from error

    @classmethod
    def parse(cls, text: str, file: Path) -> Config:
        """Take the text of ``config.toml``; ``file`` is how errors name it."""
        try:
            settings = tomllib.loads(text)
            if another := of_another_kind(file.parent, settings):
                raise RunError(another)
            return cls.model_validate(settings)
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"cannot read {file}: {error}") from error
        except ValidationError as error:
            raise RunError(f"{file}: {first_fault(error)}") from error

    def dump(self) -> str:
        """The text of ``config.toml``."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def of_another_kind(folder: Path, settings: dict[str, Any] | None = None) -> str | None:
    """What a directory holds that is no run of a learner, and which verb reads it; None where it is not known.

    Parameters
    ----------
    folder : Path
    settings : dict, optional
        What its ``config.toml`` says, where that is known.
    """
    kind = kind_of(folder, settings)
    if kind == "campaign":
        return f"{folder} is a campaign of discovery, not a run of a learner; expected everlearn discover {folder}"
    if kind == "pretraining":
        return f"{folder} is a pretraining run, not one of a learner; expected everlearn pretrain --resume {folder}"
    return None
