"""What a source held when the run began to learn it: a position in its stream means nothing once it holds others."""

from __future__ import annotations

import hashlib
import time

import numpy as np
from numpy.typing import NDArray

from everlearn.data import Source
from everlearn.errors import RunError
from everlearn.runs.run import Run


def fingerprint(source: Source) -> NDArray[np.uint64]:
    """``[N + 1]``: a hash of each sample's name, and one of their labels and what else decides the stream's order.

    Examples
    --------
    >>> from everlearn.data import open_source
    >>> source = open_source("builtin:digits")
    >>> len(np.unique(fingerprint(source))) == len(source) + 1
    True
    """
    rest = hashlib.blake2b(repr(source.class_names).encode(), digest_size=8)
    for column in (source.labels, source.test, source.times, source.tasks, source.sites):
        rest.update(b"" if column is None else np.ascontiguousarray(column).tobytes())
    names = [hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest() for name in source.names]
    return np.frombuffer(b"".join([*names, rest.digest()]), dtype="<u8")


def check_contents(run: Run, part: int, source: Source) -> None:
    """Keep what a part's source holds before it is learned; refuse another in its place while it is.

    A part that has been learned may change. One of which nothing has been learned yet begins anew with what it holds
    now, and what was forgotten of it stays so.

    Raises
    ------
    RunError
        If the source differs from what the run has begun to learn.
    """
    progress, spec = run.progress, run.config.parts[part].data.source
    if part < progress.part or (part == progress.part and progress.finished):
        return
    held, now = run.journal.contents(spec), fingerprint(source)
    if held is None:
        run.journal.keep_contents(spec, len(source), now.tobytes())
        return
    first_id, samples, hashes = held
    before = None if hashes is None else np.frombuffer(hashes, dtype="<u8")
    if before is None and samples == len(source):  # begun before fingerprints were kept
        run.journal.keep_contents(spec, len(source), now.tobytes(), first_id)
    elif before is None or not np.array_equal(before, now):
        if part == progress.part and progress.position > 0:
            raise RunError(_changed(run, spec, source, samples, before, now))
        new_id = run.journal.keep_contents(spec, len(source), now.tobytes())
        if before is not None:
            _forget_again(run, before, first_id, now, new_id)


def _changed(
    run: Run, spec: str, source: Source, samples: int, before: NDArray[np.uint64] | None, now: NDArray[np.uint64]
) -> str:
    """One line: what was found, what was expected, what to do."""
    found = f"it holds {len(source)} samples"
    if before is not None:
        new, gone = np.flatnonzero(~np.isin(now[:-1], before)), int((~np.isin(before[:-1], now)).sum())
        named = f"{len(new)} samples more" + (f": first {source.names[new[0]]}" if len(new) else "")
        found = f"{named}; {gone} gone" if len(new) or gone else "other labels, or another order"
    return (
        f"{spec} has changed since {run.path} began to learn it ({found}); expected the {samples} samples of then, in "
        "whose order it goes on: restore them and resume, and learn new ones from another folder once that is "
        f"finished (everlearn learn SOURCE --run {run.path})"
    )


def _forget_again(run: Run, before: NDArray[np.uint64], first_id: int, now: NDArray[np.uint64], new_id: int) -> None:
    """What was forgotten of a source stays so under the ids that its samples have now."""
    ids = [id_ - first_id for id_ in run.journal.forgotten() if 0 <= id_ - first_id < len(before) - 1]
    for i in np.flatnonzero(np.isin(now[:-1], before[ids])).tolist() if ids else ():
        run.journal.forget(new_id + i, time.time())
