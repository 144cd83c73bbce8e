"""What a method can be set to: names, types and defaults, as its parameters declare them; and values for them."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from everlearn.errors import SettingError
from everlearn.learners.learner import Learner
from everlearn.learners.options import Options

COMMON = ("memory", "replay", "classifier", "precision", "seed")
"""What every method takes, and `everlearn learn` by an option of its own."""

_GIVEN = {*COMMON, "device", "group"}
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


@dataclass(frozen=True)
class Setting:
    """The type of a setting (bool, int, float or str) and its default."""

    kind: type
    default: Any


def settings_of(method: type[Learner]) -> dict[str, Setting]:
    """The settings that a method itself declares, those of the class it refines first.

    Examples
    --------
    >>> from everlearn.learners import MIR
    >>> settings_of(MIR)
    {'candidates': Setting(kind=<class 'int'>, default=50)}
    """
    found: dict[str, Setting] = {}
    for owner in reversed([each for each in method.__mro__ if issubclass(each, Learner) and each is not Learner]):
        kinds = get_type_hints(owner.__init__)
        for each in inspect.signature(owner.__init__).parameters.values():
            if each.kind is each.KEYWORD_ONLY and each.name not in _GIVEN and each.default is not each.empty:
                found[each.name] = Setting(_kind(kinds[each.name]), each.default)
    return found


def shared_settings() -> dict[str, Setting]:
    """The settings of `Options`, of which each method allows some."""
    kinds = get_type_hints(Options)
    return {each.name: Setting(_kind(kinds[each.name]), each.default) for each in fields(Options)}


def check_settings(method: type[Learner], settings: dict[str, Any]) -> None:
    """Raise `SettingError` for the first setting that the method does not have, or whose value is of another type."""
    known = shared_settings() | settings_of(method)
    for name, value in settings.items():
        if name not in known:
            listed = ", ".join([*settings_of(method), *sorted(method.takes)])
            raise SettingError(f"{method.__name__} has no setting {name!r}; expected one of {listed}")
        kind = known[name].kind
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not math.isfinite(value)):
            raise SettingError(f"{name} is {value!r}; expected {_EXPECTED[kind]}")


def read_settings(texts: dict[str, str], methods: tuple[type[Learner], ...]) -> dict[str, Any]:
    """Values that were given as text, in the types that the methods declare; what none of them declares stays a text.

    Raises
    ------
    SettingError
        If a text is no value of that type, or the setting has an option of its own.

    Examples
    --------
    >>> from everlearn.learners import ASER
    >>> read_settings({"shapley_update": "no", "k": "5", "mix": "1"}, (ASER,))
    {'shapley_update': False, 'k': 5, 'mix': 1.0}
    """
    known = shared_settings()
    for method in methods:
        known = known | settings_of(method)
    read: dict[str, Any] = {}
    for name, text in texts.items():
        if name in COMMON:
            raise SettingError(f"--set {name}={text}: {name} has an option of its own; expected --{name} {text}")
        read[name] = _read(name, text, known[name].kind) if name in known else text
    return read


def _read(name: str, text: str, kind: type) -> Any:
    try:
        value = _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        value = None
    if value is None or (kind is float and not math.isfinite(value)):
        raise SettingError(f"--set {name}={text}: expected {_EXPECTED[kind]}")
    return value


def _kind(declared: Any) -> type:
    """The type of a value that may also be None."""
    kinds = [each for each in get_args(declared) or (declared,) if each is not type(None)]
    assert len(kinds) == 1 and kinds[0] in _EXPECTED, declared
    kind: type = kinds[0]
    return kind
