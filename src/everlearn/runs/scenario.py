"""A scenario in one word or several: the order of samples, and what is done to the source before it is learned."""

from __future__ import annotations

from typing import Any

from everlearn.data import Source
from everlearn.data.scenarios import domains, long_tailed, noisy_labels
from everlearn.errors import SettingError
from everlearn.runs.config import DataConfig

ORDERS = ("class", "time", "site", "task", "shuffled", "blurred", "domain")
SCENARIOS = (
    "class (default), time, site, task, shuffled, blurred[:TASKLENGTHS], domain[:SHIFT,…], and with + any of "
    "long_tailed[:RATIO], wrong_labels[:SHARE]"
)


def parse(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of data and stream that a scenario stands for.

    Parameters
    ----------
    text : str
        Names joined by ``+``, some with a value behind a colon: one order (``class`` where there is none) of
        ``class``, ``time``, ``site``, ``task``, ``shuffled``, ``blurred:β`` (0.1) and ``domain:SHIFT,…``, and any of
        ``long_tailed:RATIO`` (100) and ``wrong_labels:SHARE`` (0.2). See `everlearn.data.scenarios`.

    Raises
    ------
    SettingError
        If a name is unknown, comes twice, or has a value that it does not take.

    Examples
    --------
    >>> parse("domain:noise,blur:5+wrong_labels")
    ({'shifts': ['noise', 'blur:5'], 'wrong_labels': 0.2}, {'scenario': 'domain'})
    """
    known: dict[str, Any] = {}
    stream: dict[str, Any] = {}
    for part in text.split("+"):
        name, _, value = part.strip().partition(":")
        if name in ORDERS and "scenario" not in stream:
            stream["scenario"] = name
            if name == "domain":
                known["shifts"] = value.split(",") if value else ["none", "noise", "blur", "occlusion", "brightness"]
                continue
            if name == "blurred":
                stream |= {"blur": _number(part, value)} if value else {}
                continue
        elif name in ("long_tailed", "wrong_labels") and name not in known:
            known[name] = _number(part, value) if value else {"long_tailed": 100.0, "wrong_labels": 0.2}[name]
            continue
        else:
            raise SettingError(f"scenario is {text!r}; expected {SCENARIOS}")
        if value:
            raise SettingError(f"scenario {name} takes no value, and {part.strip()!r} has one")
    return known, stream


def altered(source: Source, settings: DataConfig, seed: int) -> Source:
    """The source as it is learned: dealt to shifted domains, thinned to a long tail, some labels wrong."""
    if settings.shifts and source.text:
        raise SettingError(f"{source.name} holds texts; shifts are for pictures: leave scenario domain out")
    if settings.long_tailed is not None:
        source = long_tailed(source, settings.long_tailed, seed)
    if settings.shifts:
        source = domains(source, settings.shifts, seed)
    if settings.wrong_labels is not None:
        source = noisy_labels(source, settings.wrong_labels, seed=seed)
    return source


def _number(part: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise SettingError(f"scenario {part.strip()!r}; expected a number behind the colon") from error
