"""What a person asks of the planner: a configuration file, amounts such as 13T, and a layout that is already chosen."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import MOST_DEVICES
from everlearn.scaling.plan.config import ModelShape, load_shape, shape_from
from everlearn.scaling.plan.layout import Layout

_AMOUNT = re.compile(r"\$?\s*(?=\.?\d)((?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d*(?:e[+-]?\d+)?)\s*([kmbt]?)", re.ASCII)
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
TRAINERS_OWN = {"shard", "schedule", "context", "compile"}  # of pretrain's [layout], without effect on a plan
MOST = 1e18  # of tokens and of dollars, beyond which an amount is a slip of the pen
USUAL_BATCH = 4_000_000  # tokens of a step, where nothing says


@dataclass(frozen=True)
class Request:
    """A model, and what its configuration says beyond.

    Parameters
    ----------
    shape : ModelShape
        The model.
    global_batch : int
        Sequences of a step; 0 if not told.
    layout : dict
        Fields of a layout that is chosen already; empty: search.
    preset : str or None
        The preset's name, where the model is one.
    """

    shape: ModelShape
    global_batch: int = 0
    layout: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None

    def chosen(self, devices: int, global_batch: int, precision: str | None = None) -> Layout:
        """The layout of the configuration; ``dp`` 0 or missing fills the devices."""
        told = dict(self.layout)
        rest = told.get("tp", 1) * told.get("pp", 1) * told.get("cp", 1)
        if rest > 0 and not told.get("dp"):
            if devices % rest:
                raise SettingError(
                    f"layout: tp × pp × cp = {rest} does not divide {devices} devices; change one of them"
                )
            told["dp"] = devices // rest
        told["precision"] = precision or told.get("precision", "bf16")
        return Layout(**told, global_batch=global_batch)


def read_request(config: str | Path) -> Request:
    """Read CONFIG: a preset's name, or a TOML file, such as ``everlearn pretrain`` takes.

    Raises
    ------
    SettingError
        If there is no such file or preset, or something in it is unknown.

    Examples
    --------
    >>> read_request("dense-600b").shape.layers
    118
    """
    path = Path(config)
    if path.suffix != ".toml" or not path.is_file():
        return Request(load_shape(config), preset=str(config).lower())
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{path.name} is not readable TOML: {error}") from None
    model, train = _table(table, "model", path.name), _table(table, "train", path.name)
    preset = model.pop("preset", None)
    changes = {"seq_len": train["seq_len"]} if train.get("seq_len") else {}
    if preset is not None:
        if not isinstance(preset, str):
            raise SettingError(f"{path.name}: preset is {preset!r}; expected a preset's name, or a TOML file's")
        known = load_shape(preset)
        told = {f.name: getattr(known, f.name) for f in fields(known)}
        for name in ("attention_layers", "ffn_layers"):
            if told[name] == known.layers:
                del told[name]  # of all layers, however many these become
        shape = shape_from(told | model | changes, path.stem)
    else:
        shape = shape_from(model | changes, path.stem)
    batch = train.get("global_batch", 0)
    if type(batch) is not int or not 0 <= batch <= MOST:
        raise SettingError(f"{path.name}: global_batch is {batch!r}; expected a whole number of sequences")
    return Request(shape, batch, _layout(_table(table, "layout", path.name), path.name), preset)


def _table(table: dict[str, Any], name: str, file: str) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict) or (name == "model" and not found):
        raise SettingError(
            f"{file} has no [{name}] table; a configuration needs [model], and may have [train], [layout]"
        )
    return dict(found)


def _layout(table: dict[str, Any], file: str) -> dict[str, Any]:
    known = {f.name: f.default for f in fields(Layout)}
    if unknown := sorted(set(table) - set(known) - TRAINERS_OWN):
        raise SettingError(f"{file}: unknown layout setting {unknown[0]!r}; known are {', '.join(known)}")
    for name, value in table.items():
        if name in known and (type(value) is not type(known[name])):
            raise SettingError(f"{file}: layout {name} is {value!r}; expected {type(known[name]).__name__}")
    for name in ("dp", "tp", "pp", "vpp", "cp", "ep", "micro_batch"):
        if name in table and not (0 if name == "dp" else 1) <= table[name] <= MOST_DEVICES:
            raise SettingError(f"{file}: layout: {name} is {table[name]}; expected 1 or more")
    if table.get("precision") == "fp32":
        raise SettingError(f"{file}: layout precision is 'fp32'; the planner plans bf16 and narrower, so set bf16")
    return {name: value for name, value in table.items() if name in known and name != "global_batch"}


def amount(text: str, what: str) -> float:
    """A number with a unit: 13T, 450B, 4M, 2.5e12, $3M.

    Examples
    --------
    >>> amount("13T", "tokens"), amount("$2.5M", "budget")
    (13000000000000.0, 2500000.0)
    """
    found = _AMOUNT.fullmatch(text.strip().lower())
    value = float(found.group(1).replace(",", "")) * UNITS[found.group(2)] if found else 0.0
    if not 0 < value <= MOST:
        raise SettingError(
            f"{what} is {text!r}; expected a number above 0, such as 13T, 450B or 2.5e12, and at most {MOST:g}"
        )
    return value


def fitting_batch(tokens: float, shape: ModelShape, devices: int) -> int:
    """Sequences of a step near so many tokens, with as many factors of the devices as are near."""
    wanted = max(1, round(tokens / shape.seq_len))
    unit = 1
    while devices % (2 * unit) == 0 and 2 * unit <= wanted / 4:
        unit *= 2
    if devices % 3 == 0 and 3 * unit <= wanted / 4:
        unit *= 3
    return max(1, round(wanted / unit)) * unit
