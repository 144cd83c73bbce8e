"""Several processes on one machine: start them, watch them, and leave none behind.

Under torchrun, which starts and watches processes itself, only `connect` and `together` are used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from everlearn.errors import EverlearnError, RunError, SettingError

MOST = 64
"""Processes that may be started on one machine: each is a whole Python with PyTorch, some 300 MB."""

_FOLDER = "EVERLEARN_PROCESSES"  # where processes that `launch` started find each other


class Watchdog:
    """Ends this process when a step takes too long: where one process hangs, all others wait for it without end.

    Parameters
    ----------
    seconds : float
        Between beats; the first beat, which comes after start and compilation, is not waited for.
    fail : callable
        Called with one line that says what happened, from the watching thread.
    """

    def __init__(self, seconds: float, fail: Callable[[str], None]) -> None:
        self.seconds, self.fail = seconds, fail
        self._last: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """A step has ended."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            if self._last is not None and time.monotonic() - self._last > self.seconds:
                self._done.set()
                self.fail(f"no step ended within {self.seconds:.0f} s: a process hangs, or a machine is gone")


def connect(timeout: float = 600.0, folder: Path | None = None) -> tuple[int, int]:
    """Join the other processes, if there are any; returns rank and world size.

    Processes that `launch` started meet in its folder, or in another empty one that all name.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    meeting = folder or os.environ.get(_FOLDER)
    where = f"file://{meeting}/store" if meeting else "env://"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
    return rank, world


def check_number(processes: int) -> None:
    """Refuse to start none, or more than `MOST`."""
    if not 1 <= processes <= MOST:
        raise SettingError(f"{processes} processes; expected 1 to {MOST} on one machine, and torchrun for several")


def launch(
    command: list[str], processes: int, timeout: float | None = None, tick: Callable[[], None] = lambda: None
) -> None:
    """Run a command in so many processes and wait for all of them.

    Parameters
    ----------
    command : list of str
        Arguments of the Python interpreter.
    processes : int
    timeout : float, optional
        Seconds for all of it.
    tick : callable
        Called now and then while they run.

    Raises
    ------
    SettingError
        If there are none, or more than `MOST`.
    RunError
        If a process fails, dies or takes too long: the others are ended, and one line says what happened.
    """
    check_number(processes)
    with tempfile.TemporaryDirectory(prefix="everlearn-") as folder:
        started = [_start(command, rank, processes, folder) for rank in range(processes)]
        try:
            _watch(started, Path(folder), timeout, tick)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _start(command: list[str], rank: int, world: int, folder: str) -> subprocess.Popen[bytes]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // world))
    mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "OMP_NUM_THREADS": threads, _FOLDER: folder}
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | {name: str(value) for name, value in mine.items()},
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


def die_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however it ends (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _watch(
    started: list[subprocess.Popen[bytes]], folder: Path, timeout: float | None, tick: Callable[[], None]
) -> None:
    end = time.monotonic() + timeout if timeout else None
    while True:
        tick()
        codes = [process.poll() for process in started]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            break
        if all(code == 0 for code in codes):
            return
        if end and time.monotonic() > end:
            silent = ", ".join(str(rank) for rank, code in enumerate(codes) if code is None)
            raise RunError(f"no end after {timeout:.0f} s; rank {silent} of {len(started)} still ran and was stopped")
        time.sleep(0.05)
    time.sleep(1.0)  # what one process did to the others shows a little later
    raise RunError(_cause(started, folder))


def _cause(started: list[subprocess.Popen[bytes]], folder: Path) -> str:
    """Which process failed first of all: one that was killed, one that says why, one that only lost the others."""
    for rank, process in enumerate(started):
        code = process.poll()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"rank {rank} of {len(started)} died ({name}); the other processes were stopped"
    told = sorted(
        folder.glob("failed-*"), key=lambda path: (path.name.startswith("failed-lost"), path.stat().st_mtime_ns)
    )
    if told:
        return told[0].read_text(encoding="utf-8")
    codes = {rank: process.poll() for rank, process in enumerate(started) if process.poll()}
    rank, code = next(iter(codes.items()))
    return f"rank {rank} of {len(started)} ended with code {code}; the other processes were stopped"


def report_failure(error: BaseException, rank: int, folder: Path | None = None) -> bool:
    """Say for this process why it fails; returns whether it is the one to print it.

    A process that `launch` started leaves its word for the one that watches. Under torchrun the first to come here
    prints.
    """
    ours = isinstance(error, EverlearnError)
    message = str(error) if ours else lost(error, rank)
    started_by_us = os.environ.get(_FOLDER)
    if started_by_us:
        kind = "own" if ours else "lost"
        (Path(started_by_us) / f"failed-{kind}-{rank}").write_text(" ".join(message.split()), encoding="utf-8")
        return False
    if folder is None or not folder.is_dir():
        return rank == 0
    marker = folder / f".told-{os.environ.get('TORCHELASTIC_RUN_ID', 'run')}-{os.getppid()}"
    try:
        marker.touch(exist_ok=False)
    except OSError:
        return False
    return True


@contextmanager
def together(folder: Path) -> Iterator[tuple[int, int]]:
    """Join the other processes, if there are any, for a piece of work in a folder; gives rank and number of processes.

    Where one of several fails, one line says why, once for all of them, and this process ends with code 2.
    """
    rank, world = connect()
    for told in folder.glob(".told-*") if rank == 0 else ():
        told.unlink(missing_ok=True)
    if world > 1 and _FOLDER not in os.environ and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stopped)  # what torchrun sends to those that are left
    try:
        yield rank, world
        leave()
    except Exception as error:
        if world == 1 or os.environ.get("EVERLEARN_DEBUG"):
            raise
        fail(error, rank, folder)
    except KeyboardInterrupt:
        if world == 1 or (rank == 0 and _FOLDER not in os.environ):
            raise
        os._exit(130)  # another process says so


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise RunError("stopped (SIGTERM): another process died, or somebody asked for it; the last checkpoint is intact")


def fail(error: Exception, rank: int, folder: Path) -> NoReturn:
    """End this process; if no other has said why, say it."""
    if report_failure(error, rank, folder):
        message = str(error) if isinstance(error, EverlearnError) else lost(error, rank)
        print(f"everlearn: {' '.join(message.split())}", file=sys.stderr, flush=True)
    os._exit(2)  # other threads may wait for processes that are gone


def lost(error: BaseException, rank: int) -> str:
    """One line for a failure within a collective, or anything else that was not foreseen."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    text = first.lower()
    if "timed out" in text or "timeout" in text:
        return f"rank {rank} had no answer from another process in time: one hangs or is gone ({first[:120]})"
    if any(word in text for word in ("connection", "peer", "gloo", "socket", "broken pipe")):
        return f"rank {rank} lost another process: it died or was stopped ({first[:120]})"
    return f"rank {rank}: unexpected {type(error).__name__}: {first}; set EVERLEARN_DEBUG=1 to see where"


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
