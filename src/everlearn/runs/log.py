"""A run's figures, step by step, for a tool that draws them: TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import netrc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from everlearn.errors import SettingError
from everlearn.runs.run import Run
from everlearn.runs.session import Moment

EXPECTED = "tensorboard:DIR, mlflow:DIR_OR_URI or wandb:PROJECT"
_FLUSH_SECONDS = 1.0


class Log(Protocol):
    """What a logger must do: take in each moment."""

    def __call__(self, moment: Moment) -> None:
        """Write what the moment has."""


Write = Callable[[int, dict[str, float], tuple[str, ...]], None]
"""Takes a step, its figures by name, and its alarms."""


def check_log(spec: str) -> tuple[str, str]:
    """The tool and where it writes; raises `SettingError` before anything is begun."""
    tool, _, where = spec.partition(":")
    if tool not in _TOOLS or not where:
        raise SettingError(f"--log is {spec!r}; expected {EXPECTED}")
    packages, extra, _ = _TOOLS[tool]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"--log {tool} needs the package {missing[0]}: pip install {extra}")
    if tool == "tensorboard" or (tool == "mlflow" and "://" not in where):
        try:
            Path(where).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"--log {spec}: cannot write there ({error.strerror})") from error
    if tool == "wandb" and os.environ.get("WANDB_MODE") not in ("offline", "disabled") and not _wandb_login():
        raise SettingError(f"--log {spec}: nobody is logged in; run wandb login, or set WANDB_MODE=offline")
    return tool, where


@contextmanager
def open_log(spec: str, run: Run, warn: Callable[[str], None] = lambda text: None) -> Iterator[Log]:
    """Open a logger for a run that begins or goes on.

    Parameters
    ----------
    spec : str
        ``tensorboard:DIR``; ``mlflow:DIR``, a folder that gets ``mlflow.db``, or ``mlflow:URI`` of a tracking server or
        store; or ``wandb:PROJECT``, whose files lie in the run's directory unless WANDB_DIR says otherwise.
    run : Run
        Figures of steps that it learns again after an interruption are entered once.
    warn : callable
        Called with one line if the tool fails later on; learning goes on without it.

    Yields
    ------
    Log
        Called with every `Moment`; what it was given is written when the context ends.

    Raises
    ------
    SettingError
        If the tool is unknown, its package is missing, or it cannot write.
    """
    tool, where = check_log(spec)
    opened = _TOOLS[tool][2](where, run)
    try:
        write: Write | None = opened.__enter__()
    except Exception as error:
        raise SettingError(f"--log {spec}: {_first_line(error)}") from error

    def log(moment: Moment) -> None:
        nonlocal write
        figures = {} if math.isnan(moment.loss) else {"loss": moment.loss}
        if moment.evaluated and moment.average_accuracy is not None:
            figures["average accuracy"] = moment.average_accuracy
        try:
            if write is not None and (figures or moment.alarms):
                write(moment.step, figures, moment.alarms)
        except Exception as error:
            write = None
            warn(f"--log {spec} failed at step {moment.step}: {_first_line(error)}; learning goes on without it")

    failed: BaseException | None = None
    try:
        yield log
    except BaseException as error:
        failed = error
        raise
    finally:
        try:
            opened.__exit__(type(failed) if failed else None, failed, None)
        except Exception as error:
            if error is not failed:
                warn(f"--log {spec} failed at the end: {_first_line(error)}")


@contextmanager
def _tensorboard(where: str, run: Run) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    step = run.progress.step  # what an earlier process wrote behind it is struck out
    with SummaryWriter(where, purge_step=step + 1 if step else None) as writer:

        def write(step: int, figures: dict[str, float], alarms: tuple[str, ...]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            for text in alarms:
                writer.add_text("alarms", text, step)

        yield write


@contextmanager
def _mlflow(where: str, run: Run) -> Iterator[Write]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is not there is soon told
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient(where if "://" in where else f"sqlite:///{Path(where).absolute() / 'mlflow.db'}")
    number, known = _mlflow_run(client, run, None if "://" in where else (Path(where).absolute() / "files").as_uri())
    waiting: list[Metric] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        for start in range(0, len(waiting), 1000):  # as many as MLflow takes at once
            client.log_batch(number, metrics=waiting[start : start + 1000])
        waiting.clear()
        flushed = time.monotonic()

    def write(step: int, figures: dict[str, float], alarms: tuple[str, ...]) -> None:
        now = int(time.time() * 1000)
        waiting.extend(Metric(name, value, now, step) for name, value in figures.items() if step > known.get(name, 0))
        for i, text in enumerate(alarms):
            client.set_tag(number, f"alarm {step}.{i}", text)
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            flush()

    status = "FAILED"
    try:
        yield write
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        flush()
        client.set_terminated(number, status)


def _mlflow_run(client: Any, run: Run, files: str | None) -> tuple[str, dict[str, int]]:
    """The number of MLflow's run for this one, and the last step of each figure that it has."""
    experiment = client.get_experiment_by_name("everlearn")
    id_ = experiment.experiment_id if experiment else client.create_experiment("everlearn", artifact_location=files)
    path = str(run.path.absolute())
    if run.progress.step:
        found = client.search_runs([id_], f"tags.`everlearn.run` = '{path}'", max_results=1)
        if found:
            number = found[0].info.run_id
            client.set_terminated(number, "RUNNING")
            past = {name: client.get_metric_history(number, name) for name in found[0].data.metrics}
            return number, {name: max(metric.step for metric in metrics) for name, metrics in past.items()}
    number = client.create_run(id_, run_name=run.path.name, tags={"everlearn.run": path}).info.run_id
    for name, value in _settings(run).items():
        client.log_param(number, name, value)
    return number, {}


@contextmanager
def _wandb(where: str, run: Run) -> Iterator[Write]:
    import wandb

    path = str(run.path.absolute())
    logged = wandb.init(
        project=where, name=run.path.name, id=hashlib.sha256(path.encode()).hexdigest()[:16], resume="allow",
        dir=os.environ.get("WANDB_DIR", path), config=_settings(run), settings=wandb.Settings(silent=True),
    )  # fmt: skip

    def write(step: int, figures: dict[str, float], alarms: tuple[str, ...]) -> None:
        told = {"alarms": "; ".join(alarms)} if alarms else {}
        logged.log(figures | told, step=step)  # of a step that it knows W&B takes nothing more

    with logged:
        yield write


def _wandb_login() -> bool:
    """Whether there is a key for W&B's server: told by its environment variables, or kept by ``wandb login``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc").authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


_TOOLS: dict[str, tuple[tuple[str, ...], str, Callable[[str, Run], AbstractContextManager[Write]]]] = {
    "tensorboard": (("tensorboard",), "everlearn[tensorboard]", _tensorboard),
    "mlflow": (("mlflow", "sqlalchemy", "alembic"), "everlearn[mlflow]", _mlflow),
    "wandb": (("wandb",), "everlearn[wandb]", _wandb),
}


def _settings(run: Run) -> dict[str, Any]:
    """The run's configuration by dotted names."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                add(f"{prefix}.{name}" if prefix else name, each)
        else:
            flat[prefix] = value

    add("", run.config.model_dump(exclude_none=True, exclude={"chosen", "more", "rates"}))
    return flat


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
