"""``everlearn learn``: learn a stream, or go on with a run that was interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from everlearn.cli import show
from everlearn.errors import SettingError
from everlearn.learners import METHODS
from everlearn.runs import Config, Run, default_lr, prepare
from everlearn.runs import learn as learn_stream

SOURCES = (
    "class folder, CSV/Parquet manifest, .npz, DICOM folder (with --labels), "
    "builtin:digits, torchvision:NAME or medmnist:NAME"
)
COLUMNS = "a manifest's column, ROLE=NAME, repeatable; roles: path, label, time, task, site, patient, split"


def learn(
    source: Annotated[str | None, typer.Argument(help=SOURCES)] = None,
    run: Annotated[Path | None, Option(help="directory of the new run")] = None,
    resume: Annotated[Path | None, Option(help="go on with this run; its settings are those it began with")] = None,
    method: Annotated[str, Option(help=f"one of {', '.join(METHODS)}")] = "aser",
    backbone: Annotated[str, Option(help="slim_resnet18, resnet18 or any timm name")] = "slim_resnet18",
    weights: Annotated[Path | None, Option(help="safetensors file for the backbone")] = None,
    pretrained: Annotated[bool, Option("--pretrained", help="let timm fetch pretrained weights")] = False,
    memory: Annotated[int, Option(help="remembered samples, at most")] = 1000,
    batch: Annotated[int, Option(help="samples of a step")] = 10,
    replay: Annotated[int | None, Option(help="remembered samples that join a step")] = None,
    lr: Annotated[float | None, Option(help="learning rate; 0.1 for our networks, 0.01 for timm's")] = None,
    classifier: Annotated[str | None, Option(help="linear, or ncm: nearest class mean over memory")] = None,
    precision: Annotated[str, Option(help="auto, float32 or bfloat16")] = "auto",
    set_: Annotated[list[str] | None, Option("--set", help="a setting of the method, NAME=VALUE; repeatable")] = None,
    scenario: Annotated[str, Option(help="class, time, site, task, blurred or shuffled")] = "class",
    tasks: Annotated[int, Option(help="number of tasks")] = 5,
    order: Annotated[str, Option(help="of classes: natural or seeded")] = "natural",
    seed: Annotated[int, Option(help="of everything drawn")] = 0,
    size: Annotated[int | None, Option(help="height and width of the pictures")] = None,
    channels: Annotated[int | None, Option(help="1 grey, 3 colour")] = None,
    holdout: Annotated[float, Option(help="share held out where there is no test split")] = 0.2,
    labels: Annotated[Path | None, Option(help="label CSV of a DICOM folder")] = None,
    column: Annotated[list[str] | None, Option(help=COLUMNS)] = None,
    root: Annotated[Path | None, Option(help="folder of torchvision's and MedMNIST's files")] = None,
    workers: Annotated[int, Option(help="processes that decode pictures")] = 0,
    checkpoint_every: Annotated[int, Option(help="steps between checkpoints")] = 100,
    json: Annotated[bool, Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Learn SOURCE in one pass with a bounded memory, or go on with a run: everlearn learn --resume RUN."""
    if (resume is None) == (run is None or source is None):
        raise SettingError("expected either SOURCE and --run RUN for a new run, or --resume RUN to go on with one")
    if resume is not None:
        if source is not None or run is not None:
            raise SettingError("--resume takes the settings of the run; leave SOURCE and --run out")
        opened, prepared = Run.open(resume, write=True), None
    else:
        assert source is not None and run is not None
        data = _given(source=_absolute(source), size=size, channels=channels, holdout=holdout)
        data |= _given(root=_text(root), labels=_text(labels), columns=_pairs(column, "--column"))
        learner = _given(method=method, backbone=backbone, weights=_text(weights), pretrained=pretrained)
        learner |= _given(memory=memory, replay=replay, lr=lr or default_lr(backbone), classifier=classifier)
        learner |= {"precision": precision, "options": {k: _value(v) for k, v in _pairs(set_, "--set").items()}}
        stream = {"scenario": scenario, "tasks": tasks, "order": order, "batch": batch}
        rest = {"seed": seed, "workers": workers, "checkpoint_every": checkpoint_every}
        config = Config.of({"data": data, "stream": stream, "learner": learner, **rest})
        Run.check_new(run)
        prepared = prepare(config)
        opened = Run.create(run, config)
    with opened:
        begun, steps_before = time.perf_counter(), opened.progress.step
        with show.learning(quiet=json) as moment:
            learn_stream(opened, moment, prepared)
        seconds = time.perf_counter() - begun
        result = show.result(opened, seconds, opened.progress.step - steps_before)
    show.learned(result, opened, json)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _absolute(source: str) -> str:
    """A path is kept absolute, so that a run can be resumed from anywhere."""
    return source if source.startswith(("builtin:", "torchvision:", "medmnist:")) else str(Path(source).absolute())


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SettingError(f"{option} {text!r}; expected NAME=VALUE")
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
