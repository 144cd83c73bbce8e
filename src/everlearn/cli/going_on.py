"""How ``everlearn learn`` opens a run that is there: to resume it, or to go on with more data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everlearn.errors import SettingError
from everlearn.runs import Config, Run, go_on_with
from everlearn.runs.build import build_source
from everlearn.runs.changes import change, changes, option_of
from everlearn.runs.config import Continuation
from everlearn.runs.evaluate import same_source


def resumed(path: Path, given: dict[str, Any]) -> Run:
    """Open a run that was interrupted, with the settings given changed where they can be."""
    opened = Run.open(path, write=True)
    try:
        change(opened, changes(opened, given, opened.config.parts[opened.progress.part]))
    except BaseException:
        opened.close()
        raise
    return opened


def further(
    path: Path,
    source: str | None,
    watch: Path | None,
    given: dict[str, Any],
    data: dict[str, Any],
    stream: dict[str, Any],
) -> Run:
    """Open a finished run and enter further sources; a folder that it watches already is watched on.

    Parameters
    ----------
    path : Path
    source : str, optional
    watch : Path, optional
    given : dict
        Settings of the learner and the run.
    data, stream : dict
        Settings of the source; size and channels are the run's.
    """
    opened = Run.open(path, write=True)
    try:
        fixed = given | {name: data[name] for name in ("size", "channels") if name in data}
        own = {name: value for name, value in data.items() if name not in fixed}
        last = opened.config.parts[-1]
        on = watch is not None and source is None and last.data.watch and same_source(last.data.source, str(watch))
        found = changes(opened, fixed | own | stream if on else fixed, last if on else None)
        more = [] if source is None else [_part(opened, source, own, stream)]
        if watch is not None and not on:
            more.append(_watched(watch, {} if source else own, stream, alone=source is None))
        go_on_with(opened, *more)
        change(opened, found)
    except BaseException:
        opened.close()
        raise
    return opened


def _part(run: Run, source: str, data: dict[str, Any], stream: dict[str, Any]) -> Continuation:
    part = Config.of({"data": {"source": absolute(source), **data}, "stream": stream}).parts[0]
    if "tasks" not in stream and part.stream.scenario in ("class", "blurred") and run.finished:
        found = build_source(run.config, shape=run.shape, part=part.data)
        fewer = part.stream.model_copy(update={"tasks": min(5, len(found.class_names))})
        part = part.model_copy(update={"stream": fewer})
    return part


def _watched(watch: Path, data: dict[str, Any], stream: dict[str, Any], alone: bool) -> Continuation:
    """A folder to watch; settings that only a source has are refused where there is none beside it."""
    for name in (*data, *(name for name in stream if name != "batch" and alone)):
        raise SettingError(f"{option_of(name)} is of a source, and a folder that is watched takes none; leave it out")
    settings = {"source": str(watch.absolute()), "watch": True}
    return Config.of({"data": settings, "stream": {k: v for k, v in stream.items() if k == "batch"}}).parts[0]


def absolute(source: str) -> str:
    """A path is kept absolute, so that a run can be resumed from anywhere."""
    return source if source.startswith(("builtin:", "torchvision:", "medmnist:")) else str(Path(source).absolute())
