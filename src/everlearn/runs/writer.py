"""The writer: ``python -m everlearn.runs.writer RUN MARGIN`` learns a run's reviews until its standard input closes.

A line on standard input wakes it, ``stop`` ends it in good order, and the end of the input ends it at once: the server
that started it is gone then, and what is not yet learned is in the journal. It answers with lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch

from everlearn.errors import EverlearnError, RunError
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews
from everlearn.runs.run import Run

_LOCK_PATIENCE = 15.0
_POLL = 0.1


def main(path: Path, margin: float) -> None:
    """Learn until standard input is closed."""
    torch.set_num_threads(1)
    os.nice(10)  # predictions come first
    news, stop = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(news, stop), daemon=True).start()
    try:
        with _open(path) as run:
            reviews = Reviews(run.journal.db)
            reviewing = Reviewing(run, reviews, margin=margin)
            _say(ready=os.getpid())
            while not stop.is_set():
                seen = reviews.changes()
                if reviewing.work():
                    continue
                while not (stop.is_set() or news.wait(_POLL) or reviews.changes() != seen):
                    pass
                news.clear()
    except EverlearnError as error:
        _say(error=" ".join(str(error).split()))
        sys.exit(2)
    except Exception as error:
        if os.environ.get("EVERLEARN_DEBUG"):
            raise
        said = " ".join(f"unexpected {type(error).__name__}: {error}".split())
        _say(error=f"{said}; set EVERLEARN_DEBUG=1 to see where")
        sys.exit(1)


def _open(path: Path) -> Run:
    """Open for writing; the writer of a server that has just been killed may still be letting go."""
    until = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return Run.open(path, write=True)
        except RunError as error:
            if "in use" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.2)


def _listen(news: threading.Event, stop: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            stop.set()
        news.set()
    if not stop.is_set():
        os._exit(0)  # the server is gone; what is not yet learned is in the journal


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
