"""A bar for what has a known number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from everlearn.cli import show


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A live bar on standard error, with time gone and left: call with steps done and all steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    def tell(done: int, of: int) -> None:
        progress.start()  # with the first step
        progress.update(task, completed=done, total=of)

    with show.live(*columns, TimeRemainingColumn(), quiet=quiet) as progress:
        task = progress.add_task(title, total=None)
        yield tell
