"""A run's figures, step by step, for a tool that draws them; today TensorBoard."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from everlearn.errors import SettingError
from everlearn.runs.session import Moment


class Log(Protocol):
    """What a logger must do: take in each moment."""

    def __call__(self, moment: Moment) -> None:
        """Write what the moment has."""


def check_log(spec: str) -> Path:
    """The folder of a logger, made if need be; raises `SettingError` before anything is begun."""
    kind, _, where = spec.partition(":")
    if kind != "tensorboard" or not where:
        raise SettingError(f"--log is {spec!r}; expected tensorboard:DIR")
    if importlib.util.find_spec("tensorboard") is None:
        raise SettingError("--log tensorboard:DIR needs the package tensorboard: pip install tensorboard")
    try:
        Path(where).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"--log {spec}: cannot write there ({error.strerror})") from error
    return Path(where)


@contextmanager
def open_log(spec: str, step: int = 0) -> Iterator[Log]:
    """Open a logger.

    Parameters
    ----------
    spec : str
        ``tensorboard:DIR``.
    step : int
        The learner's step now: what an earlier process wrote behind it is struck out.

    Yields
    ------
    Log
        Called with every `Moment`; what it was given is on disk when the context ends.

    Raises
    ------
    SettingError
        If the tool is unknown, its package is missing, or the folder cannot be written.
    """
    folder = check_log(spec)
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(moment: Moment) -> None:
        if not math.isnan(moment.loss):
            writer.add_scalar("loss", moment.loss, moment.step)
        if moment.evaluated and moment.average_accuracy is not None:
            writer.add_scalar("average accuracy", moment.average_accuracy, moment.step)
        for text in moment.alarms:
            writer.add_text("alarms", text, moment.step)

    try:
        yield log
    finally:
        writer.close()
