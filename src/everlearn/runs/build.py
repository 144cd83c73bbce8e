"""From a configuration to a source, a stream and a learner."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn import data
from everlearn.data import Source, Stream
from everlearn.data.table import SUFFIXES as TABLE_SUFFIXES
from everlearn.errors import DataError, SettingError
from everlearn.learners import METHODS, Group, Learner
from everlearn.learners.settings import check_settings
from everlearn.models import OURS, Model, build_model, build_text_model
from everlearn.runs.config import Config, Continuation, DataConfig, StreamConfig
from everlearn.runs.room import check_fits
from everlearn.runs.scenario import altered

_TRIED = 256  # samples tried before a source counts as unreadable


def build_source(
    config: Config,
    spec: str | None = None,
    shape: tuple[int, int, int] | None = None,
    *,
    part: DataConfig | None = None,
    holdout: float | None = None,
    own: bool = False,
) -> Source:
    """Open a source of the run, or another one in the same way.

    Parameters
    ----------
    config : Config
    spec : str, optional
        Another source, which may have one class only.
    shape : tuple of int, optional
        (C, H, W) to read samples in; decided here where not given.
    part : DataConfig, optional
        Which of the run's sources; by default the first.
    holdout : float, optional
        Share held out, where it is not to be the configuration's.
    own : bool
        Whether pictures are read in their own size and colour, whatever the backbone.
    """
    settings = part or config.data
    first = spec is None and settings == config.data
    if spec is None and settings.watch:
        raise DataError(f"{settings.source} is watched: its files are learned as they arrive, and none is held out")
    size, channels = (settings.size, settings.channels) if shape is None else (shape[2], shape[0])
    ours = config.learner.backbone in OURS
    if not ours and channels is None and not own and not config.data.of_texts:
        channels = 3  # pretrained weights are for colour pictures
    where = _where(settings, spec)
    asked = next((name for name in ("region", "frames") if config.learner.options.get(name)), None)
    marked = spec is None and asked is not None

    def open_at(size: int | None) -> Source:
        return data.open_source(
            spec or settings.source, size=size, channels=channels, seed=config.seed, least=2 if first else 1,
            holdout=settings.holdout if holdout is None else holdout, regions=marked, **where,
        )  # fmt: skip

    source = open_at(size)
    if marked and first and source.regions is None:
        raise SettingError(
            f"{asked} is set, but {settings.source} tells of no regions; expected masks or boxes in the folder's "
            "meta.jsonl, or a manifest with a column mask"
        )
    if own:
        return source
    _check_kind(config, source)
    if source.text:
        return source if spec else altered(source, settings, config.seed)
    if size is None and not ours and max(source.shape[1:]) > 224:
        source = open_at(224)  # what the backbones were made for
    if size is None and ours and max(source.shape[1:]) > 64:
        source = open_at(64)  # the small networks keep full resolution in their first stage
    return source if spec else altered(source, settings, config.seed)


def _where(settings: DataConfig, other: str | None) -> dict[str, Any]:
    """How to read a source beside its shape; of another one than the settings are of, only what it has a use for."""
    table, named = (other or "").lower().endswith(TABLE_SUFFIXES), ":" in (other or "")
    folder = other is not None and Path(other).is_dir()
    where: dict[str, Any] = {}
    if settings.root and (other is None or table or named):
        where["root"] = settings.root
    if settings.labels and (other is None or folder):
        where["labels"] = Path(settings.labels)
    if settings.columns and (other is None or table or "labels" in where):
        where["columns"] = data.Columns(**settings.columns)
    return where


def check_readable(stream: Stream) -> None:
    """Refuse a stream of which no sample can be read: one that can is looked for among 256 spread over it."""
    source, indices = stream.source, np.concatenate(stream.tasks)
    if source.in_memory:
        return
    faults = []
    for place in np.linspace(0, len(indices) - 1, min(len(indices), _TRIED)).astype(int):
        try:
            source.read(int(indices[place]))
            return
        except DataError as error:
            faults.append(str(error))
    raise DataError(
        f"none of {len(faults)} samples of {source.name} that were tried can be read, so there is nothing to learn; "
        f"expected pictures where it says they are; the first: {faults[0]}"
    )


def build_stream(config: Config, source: Source, part: StreamConfig | None = None) -> Stream:
    """Order the source's samples as the scenario has it, the first source's or that of a further part."""
    settings, seed = part or config.stream, config.seed
    match settings.scenario:
        case "class":
            return data.class_incremental(source, settings.tasks, order=settings.order, seed=seed)
        case "time":
            return data.by_time(source, settings.tasks)
        case "site":
            return data.by_site(source, seed=seed)
        case "task":
            return data.by_task(source, seed=seed)
        case "blurred":
            return data.blurred(source, settings.tasks, settings.blur, seed, settings.order)
        case "domain":
            return data.by_task(source, seed=seed)
        case "shuffled":
            return data.shuffled(source, seed=seed)


def build_streams(config: Config, shape: tuple[int, int, int] | None = None) -> list[Stream | None]:
    """All sources of the configuration in order, all in the shape given or the first one's; None for a watched folder.

    Raises
    ------
    DataError
        If one of them is gone or cannot be read any more.
    """
    streams: list[Stream | None] = []
    shape = shape or fixed_shape(config)
    for part in config.parts:
        if part.data.watch:
            streams.append(None)
            continue
        source = build_source(config, shape=shape, part=part.data)
        shape = source.shape
        streams.append(build_stream(config, source, part.stream))
    return streams


def fixed_shape(config: Config) -> tuple[int, int, int] | None:
    """(C, H, W) of the pictures, where the configuration says it."""
    size, channels = config.data.size, config.data.channels
    if config.data.of_texts:
        return (1, 1, size) if size else None
    return (channels, size, size) if size and channels else None


def build_learner(
    config: Config, shape: tuple[int, int, int], group: Group | None = None, *, empty: bool = False
) -> Learner:
    """Build the model and the method around it, for a group of processes where several learn together.

    An ``empty`` one, for a state to be loaded, reads no weights.
    """
    settings = config.learner
    if empty:
        settings = settings.model_copy(update={"weights": None, "pretrained": False})
    if settings.method not in METHODS:
        near = difflib.get_close_matches(settings.method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingError(f"no method is called {settings.method!r}; {hint}there are {', '.join(METHODS)}")
    check_settings(METHODS[settings.method], settings.options)
    check_fits(settings.memory, shape, group or Group())
    model = _model(config, shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    chosen = {"replay": settings.replay, "classifier": settings.classifier}  # where not said, the method's own
    options = settings.options | {name: value for name, value in chosen.items() if value is not None}
    method = METHODS[settings.method]
    return method(
        model, optimizer, memory=settings.memory, precision=settings.precision, seed=config.seed, group=group, **options
    )


def take_rate(config: Config, learner: Learner) -> None:
    """Give the learner the rate of its next step, in a run that went on with another than it began with."""
    if config.rates:
        for group in learner.optimizer.param_groups:
            group["lr"] = config.lr_at(learner.step)


def check_borders(config: Config, part: Continuation, stream: Stream | None) -> None:
    """Refuse a part, with its stream or a watched folder, that has no task borders where the learner needs them."""
    method, loss = METHODS[config.learner.method], config.learner.options.get("loss")
    if not (method.needs_tasks or loss == "separated") or (stream is not None and stream.borders):
        return
    what = f"method {config.learner.method}" if method.needs_tasks else "loss 'separated'"
    none = f"scenario {part.stream.scenario} has none" if stream is not None else "a folder that is watched has none"
    raise SettingError(
        f"{what} needs task borders, and {none}: take a scenario with borders (class, time, site, task, domain) or, "
        "for a new run, a method that needs none, such as er"
    )


def _model(config: Config, shape: tuple[int, int, int]) -> Model:
    settings = config.learner
    if not config.data.of_texts:
        return build_model(
            settings.backbone, channels=shape[0], size=max(shape[1:]), seed=config.seed, weights=settings.weights,
            pretrained=settings.pretrained,
        )  # fmt: skip
    for name in ("augment", "views", "rrr", "region", "frames"):
        if settings.options.get(name):
            raise SettingError(f"{name} is for pictures; leave it out for texts")
    return build_text_model(settings.weights or settings.backbone)


def _check_kind(config: Config, source: Source) -> None:
    """A run is of texts or of pictures, in all of its sources."""
    if source.text != config.data.of_texts:
        kinds = ("texts", "pictures") if source.text else ("pictures", "texts")
        table = " (a table: CSV, TSV or Parquet)" if config.data.of_texts else ""
        raise DataError(f"{source.name} holds {kinds[0]}; expected {kinds[1]}{table}, which the run is of")


def default_lr(backbone: str) -> float:
    """SGD's learning rate where none is given: the ASER paper's for our networks, a tenth of it for timm's."""
    return 0.1 if backbone in OURS else 0.01
