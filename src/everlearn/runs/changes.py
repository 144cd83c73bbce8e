"""Settings given to a run that goes on: the same as the run's, or changed where that makes sense, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everlearn.errors import SettingError
from everlearn.learners import METHODS
from everlearn.learners.settings import check_settings, settings_of, shared_settings
from everlearn.runs.config import Config, Continuation
from everlearn.runs.run import Run

CHANGEABLE = ("lr", "workers", "checkpoint_every", "alarms")

_OPTIONS = {"options": "set", "columns": "column", "alarms": "no-alarms", "blur": "scenario"}
_OPTIONS |= dict.fromkeys(("shifts", "long_tailed", "wrong_labels"), "scenario")


def option_of(name: str) -> str:
    """The option of `everlearn learn` that gives a setting.

    Examples
    --------
    >>> option_of("checkpoint_every"), option_of("alarms"), option_of("columns")
    ('--checkpoint-every', '--no-alarms', '--column')
    """
    return "--" + _OPTIONS.get(name, name).replace("_", "-")


def changes(run: Run, given: dict[str, Any], part: Continuation | None = None) -> dict[str, Any]:
    """What changes in a run's configuration by the settings given, for `change`; nothing is written yet.

    Parameters
    ----------
    run : Run
    given : dict
        Settings by name: of the learner, of the run, and of the pictures.
    part : Continuation, optional
        The source that settings of data and stream are of, where some are given.

    Raises
    ------
    SettingError
        If one is another than the run's and cannot be changed, or changed to a value that is out of range.
    """
    config, step = run.config, run.progress.step
    held = (part.stream.model_dump() | part.data.model_dump() if part else {}) | config.learner.model_dump()
    held |= {name: getattr(config, name) for name in ("seed", "workers", "checkpoint_every", "alarms")}
    held |= {"size": config.data.size, "channels": config.data.channels, "lr": config.lr_at(step)}
    _check_options(run, given.get("options", {}))
    new = {name: value for name, value in given.items() if name != "options" and not _same(held.get(name), value)}
    for name, value in new.items():
        if name not in CHANGEABLE:
            raise _refusal(run, option_of(name), value, held.get(name))
    plain = {name: value for name, value in new.items() if name != "lr"}
    found = dict(plain)
    if "lr" in new:
        learner = config.learner.model_dump() | {"lr": new["lr"]}
        Config.of({**config.model_dump(), "learner": learner})
        rates = [rate.model_dump() for rate in config.rates if rate.step < step]
        first = {"learner": learner, "chosen": {k: v for k, v in config.chosen.items() if k != "lr"}, "rates": []}
        found |= {"rates": [*rates, {"step": step, "lr": new["lr"]}]} if step else first
    checked = Config.of({**config.model_dump(), **found})
    return {name: getattr(checked, name) for name in found}


def change(run: Run, found: dict[str, Any]) -> None:
    """Go on with what `changes` found: kept in the configuration, and entered in the journal."""
    if not found:
        return
    run.change(**found)
    told = {name: value for name, value in found.items() if name in CHANGEABLE}
    if "rates" in found:
        told["lr"] = run.config.lr_at(run.progress.step)
    run.journal.event(run.progress.step, "changed", told)
    run.journal.commit()


def _check_options(run: Run, options: dict[str, Any]) -> None:
    method = METHODS[run.config.learner.method]
    check_settings(method, options)
    known = shared_settings() | settings_of(method)
    for name, value in options.items():
        now = run.config.learner.options.get(name, known[name].default)
        if now != value:
            raise _refusal(run, f"--set {name}", value, now)


def _refusal(run: Run, option: str, value: Any, now: Any) -> SettingError:
    has = "a choice of its own" if now is None else repr(now)
    can = ", ".join(option_of(name) for name in CHANGEABLE)
    return SettingError(
        f"{option} is {value!r}, and {run.path} goes on with {has}: leave {option} out, or begin a new run; what can "
        f"be changed is {can}"
    )


def _same(held: Any, given: Any) -> bool:
    if isinstance(held, str) and isinstance(given, str) and held != given:
        return Path(held).resolve() == Path(given).resolve()
    return bool(held == given)
