"""The table for a practitioner with a CPU: learners on a frozen pretrained backbone, accuracy and seconds.

Every sample goes through the backbone once; the learners see its features (`everlearn.models.packed`), which is all
that they could see of a backbone that does not change. Seconds are those of encoding the samples learned and of
learning: the processor's where one thread computes, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn.bench.continual import Entry, Setting, key, run_one, settings_of, thinned_to
from everlearn.bench.costs import clock_of
from everlearn.bench.rows import append_rows, read_rows
from everlearn.data import Source, load, open_source
from everlearn.errors import DataError, SettingError
from everlearn.learners import METHODS, Learner
from everlearn.learners.device import default_device, fast_bfloat16
from everlearn.models import Model, build_model
from everlearn.models.packed import PackedModel, pack

LINES = {
    "ncm": Entry("NCM", "ncm"),
    "slda": Entry("streaming LDA", "slda"),
    "slda_shrunk": Entry("streaming LDA, ε = 0.1", "slda", {"shrinkage": 0.1}),
    "random_features": Entry("random features", "random_features"),
    "er": Entry("ER", "er", ncm="ER + NCM of memory"),
    "aser": Entry("ASERμ", "aser", {"candidates": 90}, ncm="ASERμ + NCM of memory"),
    "naive": Entry("naive", "naive"),
}


def encode(
    source: Source, model: Model, chunk: int = 16, show: Callable[[str], None] = lambda text: None
) -> tuple[Source, float]:
    """The source with features in place of pictures, and the seconds that one sample took, reading included.

    Raises
    ------
    DataError
        If a sample cannot be read: a benchmark needs every one.
    """
    device = default_device()
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    packed = np.zeros((len(source), 1, 1, 4 * model.feature_dim), dtype=np.uint8)
    clock, said = clock_of(), time.perf_counter()
    begun = clock()
    for start in range(0, len(source), chunk):
        indices = np.arange(start, min(start + chunk, len(source)))
        inputs, _, kept = load(source, indices)
        if len(kept) < len(indices):
            raise DataError(f"{source.names[int(np.setdiff1d(indices, kept)[0])]} cannot be read; remove it")
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            x = model.normalise(inputs.to(device)).contiguous(memory_format=torch.channels_last)
            packed[indices] = pack(model.features(x)).numpy()
        if time.perf_counter() - said > 10:
            said = time.perf_counter()
            show(f"encoded {indices[-1] + 1} of {len(source)}")
    seconds = (clock() - begun) / len(source)
    return replace(source, shape=packed.shape[1:], read=packed.__getitem__, in_memory=True), seconds


def run_frozen(
    source: Source,
    backbone: str,
    weights: Path | None,
    setting: Setting,
    lines: Sequence[Entry],
    memory: int,
    seeds: Sequence[int],
    file: Path,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Run what the file of JSON lines does not hold yet, and append it.

    Parameters
    ----------
    source : Source
        Of pictures in the size that the backbone is to see.
    backbone, weights
        As `build_model` has them.
    setting : Setting
        Its ``backbone`` is set here, to the name with the size.
    lines, memory, seeds, file, show
        As for `everlearn.bench.continual.run_table`.

    Returns
    -------
    list of dict
        As `run_table`, and ``encode_seconds`` of the samples learned, a part of ``seconds``.
    """
    setting = replace(setting, backbone=f"frozen {backbone}, {source.shape[1]} pixels")
    wanted = [(seed, line) for seed in seeds for line in lines]
    known = {key(row): row for row in read_rows(file)}
    encoded: tuple[Source, float] | None = None
    found = []
    for seed, line in wanted:
        keys = [key(settings_of(source, setting, line, name, memory, seed)) for name in line.readings(setting)]
        if not all(k in known for k in keys):
            if encoded is None:
                model = build_model(
                    backbone,
                    channels=source.shape[0],
                    size=source.shape[1],
                    weights=weights,
                    pretrained=weights is None,
                )
                encoded = encode(source, model, show=show)
            build = partial(_learner, lr=setting.lr)
            results = run_one(encoded[0], setting, line, memory, seed, show, build=build, clock=clock_of())
            rows = [_with_encoding(row, encoded[1]) for row in results]
            append_rows(file, rows)
            known |= {key(row): row for row in rows}
        found += [known[k] for k in keys]
    return found


def table(
    data: str,
    backbone: str,
    weights: Path | None,
    size: int,
    methods: str | None,
    memory: str | None,
    seeds: int,
    tasks: int | None,
    most: int | None,
    file: Path,
    show: Callable[[str], None],
) -> tuple[str, list[dict[str, Any]]]:
    """What the command asks for: the table's title and its rows."""
    chosen = (methods or "ncm,slda,slda_shrunk,er,aser").split(",")
    for name in chosen:
        if name not in LINES:
            raise SettingError(f"there is no line {name!r} in table 2; expected some of {', '.join(LINES)}")
    if memory is not None and not memory.isdecimal():
        raise SettingError(f"--memory is {memory!r}; table 2 takes one whole number")
    source = open_source(data, size=size, channels=3)
    source = thinned_to(source, most)
    setting = Setting(tasks=tasks or min(5, len(source.class_names)), lr=0.01)
    rows = run_frozen(
        source,
        backbone,
        weights,
        setting,
        [LINES[name] for name in chosen],
        int(memory or 1000),
        range(seeds),
        file,
        show,
    )
    return f"{Path(source.name).name}, frozen {backbone} at {size} pixels, {setting.tasks} tasks, one pass", rows


def _learner(source: Source, setting: Setting, line: Entry, memory: int, seed: int, lr: float) -> Learner:
    model = PackedModel(source.shape[2] // 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options = {"replay": setting.replay, **line.options}
    return METHODS[line.method](model, optimizer, memory=memory, seed=seed, precision="float32", **options)


def _with_encoding(row: dict[str, Any], seconds_each: float) -> dict[str, Any]:
    """Each sample learned was encoded once: the only pass through the backbone."""
    encoding = round(seconds_each * row["samples"], 2)
    seconds = round(row["seconds"] + encoding, 2)
    return row | {"seconds": seconds, "encode_seconds": encoding, "forwards_per_sample": 1.0}
