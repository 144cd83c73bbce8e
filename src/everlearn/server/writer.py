"""The writer: the one process that learns a run's reviews, beside the servers that predict.

It is a process of its own, so that learning never holds a prediction up, and it ends with the server that started it,
however that ends: its standard input is closed then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from everlearn.errors import RunError


class Writer:
    """A writer process and its keeper, which starts it again when it dies.

    Attributes
    ----------
    fault : str or None
        Why it is not running just now.
    """

    def __init__(self, run: Path, margin: float) -> None:
        self.run, self.margin = run, margin
        self.fault: str | None = None
        self._stopping = threading.Event()
        self._process = self._spawn()
        first = self._answer()
        if first.get("ready") is None:
            self._process.wait()
            raise RunError(str(first.get("error", "the writer did not start; set EVERLEARN_DEBUG=1 to see why")))
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wake(self) -> None:
        """Say that there is something to learn."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it is starting again, and looks by itself

    def stop(self) -> None:
        """Let it finish what it is learning, and end."""
        self._stopping.set()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write("stop\n")
            self._process.stdin.flush()
            self._process.wait(timeout=30)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()

    def _spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "everlearn.runs.writer", str(self.run), str(self.margin)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _answer(self) -> dict[str, object]:
        """The next line of JSON; empty when the process has closed its output."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        return {}

    def _keep(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            said = self._answer()
            if "error" in said:
                self.fault = str(said["error"])
            if said:
                continue
            self._process.wait()
            if self._stopping.wait(pause):
                return
            self.fault = self.fault or "the writer ended unexpectedly; it is started again"
            pause = min(30.0, 2 * pause)
            self._process = self._spawn()
            if "ready" in (said := self._answer()):
                self.fault, pause = None, 1.0
            else:
                self.fault = str(said.get("error", self.fault))
