"""Parity in processes: all layouts of N processes, one after another, each in fresh ones.

A layout's processes are forked from those that have loaded the libraries: none leaves groups, threads or sockets to the
next, and a layout that fails or hangs costs its own row only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from everlearn.errors import SettingError
from everlearn.scaling.parity import MODELS, SEQUENCES, Row, compare, layouts, trace
from everlearn.scaling.processes import connect, die_with_parent, launch
from everlearn.scaling.settings import Layout

LONGEST = 60  # seconds of one layout; one that hangs is ended then, and the comparison goes on


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

        asked = {"short": short, "models": models, "only": only, "inject": inject, "file": str(file)}
        launch(["-m", "everlearn.scaling.parity_run", json.dumps(asked)], processes, timeout, tick)
        tick()
    return rows


def _work(short: bool, models: list[str], only: str, inject: float, file: str) -> None:
    """What each process does: one layout after another with the others, each in a process of its own."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    asked = [(model, layout) for model in models for layout in layouts(world, model, short) if only in layout.words]
    for number, (model, layout) in enumerate(asked):
        where = Path(file).with_name(f"layout-{number}")
        where.mkdir(exist_ok=True)
        begun = time.perf_counter()
        _alone(lambda: _one(model, layout, world, rank, inject, where), where / f"error-{rank}")  # noqa: B023
        if rank == 0:
            _report(Row(model, layout.words, *_errors(where), round(time.perf_counter() - begun, 1)), Path(file))


def _alone(work: Callable[[], None], error_file: Path) -> None:
    """Run in a forked process, which takes its groups, their threads and sockets with it when it ends."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status and not error_file.exists():
            error_file.write_text("took too long" if os.WTERMSIG(status) == signal.SIGALRM else f"ended with {status}")
        return
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST)
        work()
        code = 0
    except BaseException as error:
        if os.environ.get("EVERLEARN_DEBUG"):
            traceback.print_exc()
        error_file.write_text((str(error) or type(error).__name__).splitlines()[0][:200], encoding="utf-8")
    finally:
        os._exit(code)


def _one(model: str, layout: Layout, world: int, rank: int, inject: float, where: Path) -> None:
    """The reference by itself, then the layout with the others; the largest errors go to a file."""
    reference = trace(MODELS[model], Layout(micro_batch=SEQUENCES), 1)
    connect(LONGEST / 2, where)
    errors = torch.tensor(compare(reference, trace(MODELS[model], layout, world, inject)))
    dist.all_reduce(errors, dist.ReduceOp.MAX)
    if rank == 0:
        (where / "errors.json").write_text(json.dumps(errors.tolist()), encoding="utf-8")


def _errors(where: Path) -> tuple[float, float, float, str]:
    """What a layout left behind: its errors, or the first word of what went wrong."""
    told = sorted(where.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
    found = where / "errors.json"
    if not told and found.exists():
        loss, norm, weights = json.loads(found.read_text(encoding="utf-8"))
        return loss, norm, weights, ""
    return 0.0, 0.0, 0.0, f"rank {told[0].name[6:]}: {told[0].read_text()}" if told else "no result"


def _report(row: Row, file: Path) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    _work(**json.loads(sys.argv[1]))
