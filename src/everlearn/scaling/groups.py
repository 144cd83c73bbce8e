"""Replica groups on one machine: a lighthouse, the groups' processes, and a new start for one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from everlearn.errors import RunError
from everlearn.scaling.processes import die_with_parent
from everlearn.scaling.replicas import GROUP, GROUPS, LIGHTHOUSE, library

STARTS = 4  # of one group
JOIN = timedelta(seconds=20)  # the lighthouse waits so long for a group that lives but is not there yet


def run_groups(command: list[str], groups: int, tell: Callable[[str], None]) -> None:
    """Run a command as so many replica groups until all have ended well.

    Parameters
    ----------
    command : list of str
        Arguments of the Python interpreter.
    groups : int
    tell : callable
        Called with one line when a group has died and starts again.

    Raises
    ------
    SettingError
        If torchft is missing.
    RunError
        If all groups die, or one does so time and again; the others are ended.
    """
    library()
    from torchft.coordination import LighthouseServer

    milliseconds = int(1000 * JOIN.total_seconds())
    lighthouse = LighthouseServer(
        bind="[::]:0", min_replicas=1, join_timeout_ms=milliseconds, heartbeat_timeout_ms=3000
    )
    mine = os.environ | {GROUPS: str(groups), LIGHTHOUSE: lighthouse.address()}
    running = [_start(command, mine, number) for number in range(groups)]
    starts, ended = [1] * groups, [False] * groups
    try:
        while not all(ended):
            time.sleep(0.1)
            for number, process in enumerate(running):
                code = process.poll()
                if ended[number] or code is None:
                    continue
                if code == 0:
                    ended[number] = True
                    continue
                how = signal.Signals(-code).name if code < 0 else f"code {code}"
                others = any(each.poll() is None or ended[i] for i, each in enumerate(running) if i != number)
                if starts[number] == STARTS or not others:
                    raise RunError(f"replica group {number} of {groups} ended with {how}, {_why(starts[number])}")
                tell(f"replica group {number} of {groups} died ({how}); it starts again and heals from the others")
                starts[number] += 1
                running[number] = _start(command, mine, number)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
        lighthouse.shutdown()


def _why(starts: int) -> str:
    return f"after {STARTS} starts" if starts == STARTS else "and no other group lives; go on with --resume"


def _start(command: list[str], environment: dict[str, str], number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment | {GROUP: str(number)},
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
