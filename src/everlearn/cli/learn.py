"""``everlearn learn``: learn a stream, go on with more data, or with a run that was interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer import Option

from everlearn.cli import show
from everlearn.cli.going_on import absolute, further, resumed
from everlearn.data import Source, open_source
from everlearn.data.open import reshaped
from everlearn.errors import DataError, SettingError
from everlearn.learners import METHODS, Group
from everlearn.learners.settings import read_settings
from everlearn.runs import Config, Moment, Prepared, Run, prepare
from everlearn.runs import learn as learn_stream
from everlearn.runs.build import build_source, fixed_shape
from everlearn.runs.choose import Chosen, choose, look, options_of
from everlearn.runs.choose_text import choose_text
from everlearn.runs.config import MOST_WORKERS
from everlearn.runs.log import EXPECTED, Log, check_log, open_log
from everlearn.runs.scenario import SCENARIOS, parse
from everlearn.scaling.processes import launch, together

SOURCES = (
    "class folder, CSV/Parquet manifest, table of texts, .npz, DICOM folder (with --labels), "
    "builtin:digits, torchvision:NAME or medmnist:NAME"
)
COLUMNS = (
    "a manifest's column, ROLE=NAME, repeatable; roles: path or text, label, time, task, site, patient, split, mask"
)
_RUN = (
    "directory of a new run, or of a finished one to go on with SOURCE: new samples, new classes, same learner "
    "(--into under torchrun, which takes --run for an option of its own)"
)
_SET = "a setting of the method, NAME=VALUE, repeatable: `everlearn methods NAME` lists them"
_RESUME = (
    "go on with this run by the settings it began with; --lr, --workers, --checkpoint-every, --no-alarms change them"
)
_WORKERS = f"processes that decode pictures, {MOST_WORKERS} at most; chosen"


def learn(
    source: Annotated[str | None, typer.Argument(help=SOURCES)] = None,
    run: Annotated[Path | None, Option("--run", "--into", help=_RUN)] = None,
    resume: Annotated[Path | None, Option(help=_RESUME)] = None,
    method: Annotated[str | None, Option(help=f"one of {', '.join(METHODS)} (see `everlearn methods`); chosen")] = None,
    backbone: Annotated[
        str | None, Option(help="slim_resnet18, resnet18, any timm name; for texts an encoder's folder; chosen")
    ] = None,
    weights: Annotated[Path | None, Option(help="safetensors file for the backbone; chosen if at hand")] = None,
    pretrained: Annotated[bool, Option("--pretrained", help="let timm fetch pretrained weights")] = False,
    memory: Annotated[int | None, Option(help="remembered samples, at most; chosen, mostly 1000")] = None,
    batch: Annotated[int | None, Option(help="samples of a step; 10")] = None,
    replay: Annotated[int | None, Option(help="remembered samples that join a step; the method's own")] = None,
    lr: Annotated[float | None, Option(help="learning rate; 0.1 for our networks, 0.01 for timm's")] = None,
    classifier: Annotated[str | None, Option(help="linear, or ncm: nearest class mean over memory")] = None,
    precision: Annotated[str | None, Option(help="auto, float32 or bfloat16")] = None,
    set_: Annotated[list[str] | None, Option("--set", help=_SET)] = None,
    scenario: Annotated[str | None, Option(help=SCENARIOS)] = None,
    tasks: Annotated[int | None, Option(help="number of tasks; chosen, 5 at most")] = None,
    order: Annotated[str | None, Option(help="of classes: natural (default) or seeded")] = None,
    watch: Annotated[Path | None, Option(help="learn files as they arrive in this folder, DIR/CLASS/file")] = None,
    seed: Annotated[int | None, Option(help="of everything drawn; 0")] = None,
    size: Annotated[int | None, Option(help="height and width of the pictures, bytes of a text; chosen")] = None,
    channels: Annotated[int | None, Option(help="1 grey, 3 colour; chosen")] = None,
    holdout: Annotated[float | None, Option(help="share held out where there is no test split; 0.2")] = None,
    labels: Annotated[Path | None, Option(help="label CSV of a DICOM folder")] = None,
    column: Annotated[list[str] | None, Option(help=COLUMNS)] = None,
    root: Annotated[Path | None, Option(help="folder of torchvision's and MedMNIST's files")] = None,
    workers: Annotated[int | None, Option(help=_WORKERS)] = None,
    checkpoint_every: Annotated[int | None, Option(help="steps between checkpoints; 100")] = None,
    no_alarms: Annotated[bool, Option("--no-alarms", help="do not look at batches before they are learned")] = False,
    log: Annotated[str | None, Option(help=f"loss, accuracy and alarms for a tool that draws: {EXPECTED}")] = None,
    processes: Annotated[int, Option(min=1, help="processes that learn together here; under torchrun leave it")] = 1,
    json: Annotated[bool, Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Learn SOURCE in one pass with a bounded memory; what is not set is chosen from what there is to see.

    everlearn learn SOURCE --run RUN begins a run, or goes on with a finished one; everlearn learn --resume RUN goes on
    after an interruption. With --watch DIR it then learns what arrives in DIR, until Ctrl-C. Several processes share
    the work with --processes N, or on several machines: torchrun --nproc-per-node N -m everlearn learn … --into RUN.
    """
    if (resume is None) == (run is None or (source is None and watch is None)):
        raise SettingError(
            "expected SOURCE or --watch DIR and --run RUN, for a new run or to go on with more data, or --resume RUN "
            "after an interruption"
        )
    if watch is not None and not watch.is_dir():
        raise SettingError(f"--watch {watch} is no directory; expected one that holds a folder for each class")
    if log is not None:
        check_log(log)
    of_learner = _given(method=method, backbone=backbone, weights=_text(weights), pretrained=pretrained or None)
    of_learner |= _given(memory=memory, replay=replay, lr=lr, classifier=classifier, precision=precision)
    of_learner |= _given(options=read_settings(_pairs(set_, "--set"), tuple(METHODS.values())) or None)
    data = _given(size=size, channels=channels, holdout=holdout, root=_text(root), labels=_text(labels))
    data |= _given(columns=_pairs(column, "--column") or None)
    stream = _given(tasks=tasks, order=order, batch=batch)
    if scenario is not None:
        of_data, of_stream = parse(scenario)
        data, stream = data | of_data, stream | of_stream
    rest = _given(seed=seed, workers=workers, checkpoint_every=checkpoint_every)
    rest |= {"alarms": False} if no_alarms else {}
    begun, several = time.perf_counter(), processes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if resume is not None and (source is not None or run is not None or watch is not None):
        raise SettingError("--resume takes the settings of the run; leave SOURCE, --watch and --run out")
    if several and watch is not None:
        raise SettingError("--watch learns in one process; leave --processes out, or torchrun")
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        launch(["-m", "everlearn", *sys.argv[1:]], processes)
        return
    folder = resume or run
    assert folder is not None
    with together(folder) as (rank, world):
        group = Group(rank, world)

        def begin() -> tuple[Run, Prepared | None]:
            if rank > 0:
                followed = Run.follow(folder)
                return followed, prepare(followed.config, group=group)
            if resume is not None:
                opened = resumed(resume, {**of_learner, **rest, **data, **stream})
                return opened, prepare(opened.config, group=group)
            if (folder / "config.toml").exists():
                opened = further(folder, source, watch, of_learner | rest, data, stream)
                return opened, prepare(opened.config, group=group)
            Run.check_new(folder)
            settings = {"data": data, "stream": stream, "learner": of_learner, **rest}
            config, first, chosen = _chosen(settings, source, watch, world)
            prepared = prepare(config, first if config.more == [] else None, group)
            opened = Run.create(folder, config)
            if not json:
                _say(chosen)
            return opened, prepared

        opened, prepared = group.first(begin)
        _learn(opened, prepared, log if rank == 0 else None, begun, json, rank > 0)


def _learn(opened: Run, prepared: Prepared | None, log: str | None, begun: float, json: bool, quiet: bool) -> None:
    """Learn, show it, log it, and print what it amounts to, unless another process does."""
    for text in () if quiet else opened.warnings:
        show.warn(text)
    with opened, open_log(log, opened, show.warn) if log else nullcontext() as logged:
        before = opened.progress.step, opened.progress.samples_seen
        try:
            with show.learning(quiet=json or quiet) as moment:
                learn_stream(opened, _both(moment, logged), prepared)
        except KeyboardInterrupt:
            if not opened.config.parts[opened.progress.part].data.watch:
                raise
            show.learned(_result(opened, begun, *before), opened, json)  # how watching always ends
            raise
        if not quiet:
            show.learned(_result(opened, begun, *before), opened, json)


def _both(shown: Callable[[Moment], None], logged: Log | None) -> Callable[[Moment], None]:
    def both(moment: Moment) -> None:
        shown(moment)
        if logged is not None:
            logged(moment)

    return both


def _result(run: Run, begun: float, steps: int, samples: int) -> dict[str, Any]:
    progress = run.progress
    return show.result(run, time.perf_counter() - begun, progress.step - steps, progress.samples_seen - samples)


def _chosen(
    settings: dict[str, Any], spec: str | None, watch: Path | None, processes: int
) -> tuple[Config, Source | None, dict[str, Chosen]]:
    """The configuration with what was left open chosen, the source in its shape, and what was chosen and why."""
    watched = {"source": str(watch.absolute()), "watch": True} if watch else {}
    settings["data"] |= {"source": absolute(spec)} if spec else watched
    given = {**settings["data"], **settings["stream"], **settings["learner"], "workers": settings.get("workers")}
    if spec and watch:
        settings["more"] = [{"data": watched, "stream": {k: v for k, v in settings["stream"].items() if k == "batch"}}]
    checked = Config.of(settings)  # before anything is opened
    source = build_source(checked, own=True) if spec else _there_already(checked)
    if source is not None and source.text:
        settings["data"]["columns"] = {"text": "text", **settings["data"].get("columns", {})}
        if given.get("backbone") and Path(given["backbone"]).is_dir():
            settings["learner"]["backbone"] = str(Path(given["backbone"]).absolute())
        found = choose_text(source, given)
    else:
        weights, shape = given.get("weights"), fixed_shape(checked)
        seen = look(source, Path(weights) if weights else None, given.get("backbone"), *([shape] if shape else []))
        found = choose(replace(seen, processes=processes), given)
    values = {name: each.value for name, each in found.items()}
    learner = ("backbone", "weights", "method", "lr", "memory")
    for part, names in (("data", ("size", "channels")), ("stream", ("tasks",)), ("learner", learner)):
        settings[part] = settings[part] | {name: values[name] for name in names if name in values}
    if options := options_of(found):
        options |= settings["learner"].get("options", {})
        settings["learner"] = settings["learner"] | {"options": options}
    settings |= {"workers": values.get("workers", checked.workers)}
    settings["chosen"] = {name: f"{each.value}: {each.why}" for name, each in found.items()}
    config = Config.of(settings)
    assert config.data.size
    fitting = reshaped(source, config.data.channels or 1, config.data.size) if source and spec else None
    return config, fitting, found


def _there_already(config: Config) -> Source | None:
    """The pictures that a watched folder has at the beginning, to choose by; none are needed if their shape is said."""
    data = config.data
    if fixed_shape(config):
        return None
    try:
        return open_source(data.source, size=data.size, channels=data.channels, holdout=0.0, least=1)
    except DataError as error:
        raise SettingError(
            f"{data.source} has no pictures yet to choose by ({error}); "
            "give --size and --channels, or a SOURCE to begin with"
        ) from error


def _say(chosen: dict[str, Chosen]) -> None:
    """One short block: what was chosen and why."""
    table = Table("chosen", "", "because", box=None, pad_edge=False, header_style="dim")
    for name, each in chosen.items():
        shown = Path(each.value).name if name == "weights" else str(each.value)
        table.add_row(name, Text(shown, "bold"), each.why)
    show.console.print(table)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SettingError(f"{option} {text!r}; expected NAME=VALUE")
        pairs[name] = value
    return pairs
