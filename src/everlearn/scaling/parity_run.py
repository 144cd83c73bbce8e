"""Parity in processes: all layouts of N processes, one after another, each in fresh ones.

A layout's processes are forked from one that has loaded the libraries and done nothing with them: none leaves groups,
threads or sockets to the next, and a layout that fails or hangs costs its own row only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from everlearn.errors import SettingError
from everlearn.scaling.parity import MODELS, SEQUENCES, Row, Trace, compare, layouts, trace
from everlearn.scaling.processes import check_number, connect, die_with_parent, launch
from everlearn.scaling.settings import Layout

LARGEST_FAULT, LONGEST = 1e6, 1e6
SHARE = 15  # a layout that takes a fifteenth of the time for all hangs: it is ended, and the comparison goes on


def run(
    processes: int,
    *,
    short: bool = False,
    models: tuple[str, ...] = ("dense", "moe"),
    only: str = "",
    inject: float = 1.0,
    timeout: float = 600.0,
    row: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Compare all layouts of so many local processes with one process.

    Parameters
    ----------
    processes : int
        2 or more.
    short : bool
        One layout of each kind.
    models : tuple of str
        Of "dense" and "moe".
    only : str
        Take only layouts whose words hold this.
    inject : float
        Multiplies every gradient of the parallel runs: a fault that the comparison must find.
    timeout : float
        Seconds for all.
    row : callable
        Called with each row as it comes.
    """
    if processes < 2:
        raise SettingError(f"{processes} processes; parity compares 2 or more with one")
    check_number(processes)
    if not math.isfinite(inject) or abs(inject) > LARGEST_FAULT:
        raise SettingError(f"inject is {inject:g}; expected a number between {-LARGEST_FAULT:g} and {LARGEST_FAULT:g}")
    if not 1 <= timeout <= LONGEST:
        raise SettingError(f"timeout is {timeout:g}; expected 1 to {LONGEST:g} seconds")
    if unknown := sorted(set(models) - set(MODELS)):
        raise SettingError(f"unknown model {unknown[0]!r}; expected {', '.join(MODELS)}")
    if not any(only in layout.words for model in models for layout in layouts(processes, model, short)):
        raise SettingError(f"no layout of {processes} processes has {only!r} in its name")
    rows: list[Row] = []
    with TemporaryDirectory(prefix="everlearn-parity-") as folder:
        file = Path(folder) / "rows.jsonl"

        def tick() -> None:
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            for line in lines[len(rows) :]:
                rows.append(Row(**json.loads(line)))
                row(rows[-1])

        asked = {"processes": processes, "short": short, "models": models, "only": only, "inject": inject}
        asked["longest"] = timeout / SHARE
        launch(["-m", "everlearn.scaling.parity_run", json.dumps(asked | {"file": str(file)})], 1, timeout, tick)
        tick()
    return rows


def _work(processes: int, short: bool, models: list[str], only: str, inject: float, longest: float, file: str) -> None:
    """What the process does that has loaded the libraries: the references, then one layout after another."""
    folder = Path(file).parent
    for model in models:
        _together([partial(_reference, model, folder)], folder, longest)
        for number, layout in enumerate(layouts(processes, model, short)):
            if only not in layout.words:
                continue
            where = folder / f"{model}-{number}"
            where.mkdir()
            begun = time.perf_counter()
            ranks = [partial(_one, model, layout, rank, processes, inject, where, longest) for rank in range(processes)]
            told = _together(ranks, where, longest)
            loss, norm, weights = (0.0, 0.0, 0.0) if told else json.loads((where / "errors.json").read_text())
            row = Row(model, layout.words, loss, norm, weights, told, round(time.perf_counter() - begun, 1))
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")


def _together(works: Sequence[Callable[[], None]], where: Path, longest: float) -> str:
    """Run each in a forked process; returns what went wrong first, or nothing.

    A process takes its groups, their threads and sockets with it when it ends. One that fails has all ended a little
    later, and all are ended when the time is up.
    """
    running = {_forked(work, where / f"error-{rank}"): rank for rank, work in enumerate(works)}
    end = time.monotonic() + longest
    died = ""
    while running:
        for pid, rank in list(running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del running[pid]
            if status and not died:
                died, end = f"rank {rank} ended with status {status}", min(end, time.monotonic() + 2.0)
        if running and time.monotonic() > end:
            died = died or f"rank {', '.join(map(str, running.values()))} still ran after {longest:g} s"
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            end += 60.0
        time.sleep(0.01)
    told = sorted(where.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
    return f"rank {told[0].name[6:]}: {told[0].read_text(encoding='utf-8')}" if told else died


def _forked(work: Callable[[], None], error_file: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        die_with_parent()
        work()
        code = 0
    except BaseException as error:
        if os.environ.get("EVERLEARN_DEBUG"):
            traceback.print_exc()
        error_file.write_text((str(error) or type(error).__name__).splitlines()[0][:200], encoding="utf-8")
    finally:
        os._exit(code)


def _reference(model: str, folder: Path) -> None:
    _save(trace(MODELS[model], Layout(micro_batch=SEQUENCES), 1), folder / model)


def _one(model: str, layout: Layout, rank: int, world: int, inject: float, where: Path, longest: float) -> None:
    """A layout as one of its processes runs it; the largest errors go to a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    # weights are made whole to be compared: that this takes two gathers concerns nobody
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    connect(longest, where)
    reference = _load(where.parent / model)
    errors = torch.tensor(compare(reference, trace(MODELS[model], layout, world, inject)))
    dist.all_reduce(errors, dist.ReduceOp.MAX)
    if rank == 0:
        (where / "errors.json").write_text(json.dumps(errors.tolist()), encoding="utf-8")


def _save(reference: Trace, file: Path) -> None:
    tensors = {f"before {name}": tensor for name, tensor in reference.before.items()}
    tensors |= {f"after {name}": tensor for name, tensor in reference.after.items()}
    save_file(tensors, file.with_suffix(".safetensors"))
    file.with_suffix(".json").write_text(json.dumps([reference.losses, reference.norms]), encoding="utf-8")


def _load(file: Path) -> Trace:
    losses, norms = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    tensors = load_file(file.with_suffix(".safetensors"))
    before, after = (
        {name.removeprefix(word): tensor for name, tensor in tensors.items() if name.startswith(word)}
        for word in ("before ", "after ")
    )
    return Trace(losses, norms, before, after)


if __name__ == "__main__":
    _work(**json.loads(sys.argv[1]))
