"""Checkpoints by PyTorch's Distributed Checkpoint: written while training goes on, read in any other layout.

A checkpoint is ``checkpoints/STEP`` (eight digits): safetensors files, each process's shards, and ``state.json``,
which is written last and lists the files' sizes. A folder without it, as a killed run leaves behind, does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from everlearn.errors import RunError
from everlearn.models.language import Language, LanguageConfig
from everlearn.models.mixture import Router
from everlearn.scaling.engine import Engine
from everlearn.scaling.initialise import plain

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # said of every run of one process


@dataclass
class State:
    """What a checkpoint holds beside tensors; with them it decides all that follows.

    Attributes
    ----------
    step : int
        Steps taken.
    tokens : int
        Tokens learned.
    skipped : list of int
        Batches passed over because of what they did to the loss.
    loss : float
        Running mean of the loss.
    model : dict
        The model's configuration.
    """

    step: int = 0
    tokens: int = 0
    skipped: list[int] = field(default_factory=list)
    loss: float = 0.0
    model: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of a run.

    Parameters
    ----------
    folder : Path
    keep : int
        So many of the newest are kept.
    world : int
        Processes of the run; they share the folder.
    """

    def __init__(self, folder: Path, keep: int = 2, world: int = 1) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        # a group of its own: its messages, from another thread, must not mix with the training's
        self.group: Any = dist.new_group(backend="gloo") if world > 1 else None
        self._pending: tuple[Future[Any], State] | None = None

    def save(self, engine: Engine, optimisers: list[torch.optim.Optimizer], state: State) -> None:
        """Copy everything, and write it in the background."""
        self.wait()
        target = self.folder / f".writing-{state.step:08d}"
        if self._first():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True, exist_ok=True)
        if self.group is not None:
            dist.barrier(self.group)
        tensors = tensors_of(engine) | optimiser_tensors(engine, optimisers)
        writer = HuggingFaceStorageWriter(str(target), save_distributed=True)
        alone: dict[str, Any] = {"no_dist": True} if self.group is None else {"process_group": self.group}
        future: Any = dcp.async_save(tensors, storage_writer=writer, **alone)
        self._pending = (future, State(**asdict(state)))

    def poll(self) -> None:
        """Publish the checkpoint under way if it has been written."""
        if self._pending is not None and self._pending[0].done() and self.world == 1:
            self.wait()

    def wait(self) -> None:
        """Let the checkpoint under way be written, and publish it."""
        if self._pending is None:
            return
        future, state = self._pending
        self._pending = None
        target, final = self.folder / f".writing-{state.step:08d}", self.folder / f"{state.step:08d}"
        try:
            future.result()
            if self._first():
                sizes = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
                text = json.dumps({"state": asdict(state), "files": sizes}, sort_keys=True)
                with (target / "state.json").open("w", encoding="utf-8") as stream:
                    stream.write(text + "\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                shutil.rmtree(final, ignore_errors=True)
                target.rename(final)
                for old in steps(self.folder)[: -self.keep]:
                    shutil.rmtree(self.folder / f"{old:08d}", ignore_errors=True)
        except (OSError, CheckpointException) as error:
            reason = getattr(error, "strerror", None) or _last_line(error)
            raise RunError(
                f"cannot write checkpoint {final}: {reason}; the checkpoints before it are intact"
            ) from error
        if self.group is not None:
            dist.barrier(self.group)

    def load(self, engine: Engine, optimisers: list[torch.optim.Optimizer]) -> State | None:
        """Read the newest whole checkpoint into an engine of any layout; None where there is none."""
        found = newest(self.folder)
        if found is None:
            return None
        path, state = found
        check_model(path, state, engine.config)
        reader = HuggingFaceStorageReader(str(path))
        with _reading(path):
            keys = reader.read_metadata().state_dict_metadata
        tensors = tensors_of(engine) | _empty_optimiser(engine, optimisers, keys)
        if missing := sorted(set(tensors) - set(keys)):
            raise RunError(f"checkpoint {path} has no {missing[0]}: it is of another model or optimiser")
        with _reading(path):
            dcp.load(tensors, storage_reader=reader, process_group=self.group, no_dist=self.world == 1)
        return state

    def _first(self) -> bool:
        return self.world == 1 or dist.get_rank() == 0


def tensors_of(engine: Engine) -> dict[str, Tensor]:
    """Parameters and the routers' biases, by name."""
    found: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in engine.named_parameters().items()}
    for stage in engine.stages:
        for name, module in stage.named_modules():
            if isinstance(module, Router):
                found[f"model.{plain(name + '.bias')}"] = module.bias
    return found


def optimiser_tensors(engine: Engine, optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimisers' state by the parameters' names."""
    found = {}
    for name, optimiser, parameter in _held(engine, optimisers):
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"optimiser.{name}.{key}"] = value
    return found


def held_tensors(engine: Engine, optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What this process holds of weights and optimiser, by name: its own parts."""
    found = tensors_of(engine) | optimiser_tensors(engine, optimisers)
    return {name: x.to_local() if isinstance(x, DTensor) else x for name, x in found.items()}


def take_tensors(engine: Engine, optimisers: list[torch.optim.Optimizer], found: dict[str, Tensor]) -> None:
    """Copy what `held_tensors` gave in a process of the same place in the same layout."""
    mine = tensors_of(engine) | _empty_optimiser(engine, optimisers, list(found))
    if set(mine) != set(found):
        raise RunError("another replica group trains another model or optimiser; start all with one configuration")
    with torch.no_grad():
        for name, x in mine.items():
            (x.to_local() if isinstance(x, DTensor) else x).copy_(found[name])


def _empty_optimiser(engine: Engine, optimisers: list[torch.optim.Optimizer], keys: Iterable[str]) -> dict[str, Tensor]:
    """State as the checkpoint has it, for its tensors to be read into."""
    stored = [key for key in keys if key.startswith("optimiser.")]
    found: dict[str, Tensor] = {}
    for name, optimiser, parameter in _held(engine, optimisers):
        for key in stored:
            rest = key.removeprefix(f"optimiser.{name}.")
            if rest == key or "." in rest:
                continue
            like = parameter.detach()
            value = torch.zeros((), device=like.device) if rest == "step" else torch.zeros_like(like)
            optimiser.state[parameter][rest] = found[key] = value
    return found


def _held(
    engine: Engine, optimisers: list[torch.optim.Optimizer]
) -> Iterable[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
    names = {id(p): name for name, p in engine.named_parameters().items()}
    for stage in engine.stages:  # both copies of a tied matrix, where one process has both
        names |= {
            id(p): "embed.weight" for n, p in stage.named_parameters() if n == "head.weight" and engine.config.tied
        }
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], optimiser, parameter


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    return sorted(int(path.name) for path in folder.glob("[0-9]" * 8) if (path / "state.json").exists())


def newest(folder: Path) -> tuple[Path, State] | None:
    """The newest checkpoint whose files are all there in full length; None where there is no checkpoint at all."""
    for step in reversed(steps(folder)):
        path = folder / f"{step:08d}"
        try:
            known = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if all((path / name).stat().st_size == size for name, size in known["files"].items()):
                return path, State(**known["state"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    if steps(folder):
        raise RunError(f"all checkpoints in {folder} are damaged; move them away to begin anew")
    return None


def check_model(path: Path, state: State, config: LanguageConfig) -> None:
    """Raise a `RunError` that names the first thing in which the checkpoint's model differs."""
    for name, value in asdict(config).items():
        if state.model.get(name) != value:
            was = state.model.get(name)
            raise RunError(f"checkpoint {path} is of another model: its {name} is {was}, the configuration's {value}")


def load_model(folder: Path) -> tuple[Language, State]:
    """The newest checkpoint's model, whole, in this process alone."""
    found = newest(folder)
    if found is None:
        raise RunError(f"{folder} has no whole checkpoint; let the run go on first")
    path, state = found
    model = Language(LanguageConfig(**state.model))
    tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"model.{name}": b for name, b in model.named_buffers() if name.endswith("router.bias")}
    reader = HuggingFaceStorageReader(str(path))
    with _reading(path):
        reader.read_metadata()  # where DCP finds it damaged it prints a traceback
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return model, state


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a checkpoint is read becomes one line."""
    try:
        yield
    except (Exception, CheckpointException) as error:  # DCP wraps what went wrong on any process; no Exception itself
        found = f"checkpoint {path} cannot be read: {_last_line(error)}"
        raise RunError(f"{found}; move it away to go on from the one before") from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
