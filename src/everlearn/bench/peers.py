"""Replay beside its peers in one run: a bare PyTorch loop, and Avalanche's where it is installed.

Same stream, model, first weights, batch, memory size, learning rate and precision (float32); seconds are of learning
alone, the processor's where one thread computes. The bare loop is what one would write by hand: reservoir sampling
(Vitter 1985), one step on memory and incoming batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from everlearn.bench.continual import Setting, into_memory, thinned_to
from everlearn.bench.costs import clock_of
from everlearn.bench.rows import append_rows, read_rows
from everlearn.bench.tables import machine
from everlearn.data import Source, Stream, class_incremental, load, open_source
from everlearn.errors import SettingError
from everlearn.learners import ER
from everlearn.models import build_model

Result = dict[str, Any]


class Network(nn.Module):
    """The bench's model as a peer takes it: normalised floats to logits over all classes."""

    def __init__(self, source: Source, backbone: str, seed: int) -> None:
        super().__init__()
        self.model = build_model(backbone, channels=source.shape[0], size=source.shape[1], seed=seed)
        self.model.head.grow(len(source.class_names), torch.Generator().manual_seed(seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, classes]``."""
        return self.model(x)


def bare(source: Source, stream: Stream, setting: Setting, memory: int, seed: int) -> tuple[float, float]:
    """Seconds and accuracy of a loop written by hand."""
    network = Network(source, setting.backbone, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=setting.lr)
    rng = np.random.default_rng(seed)
    kept = torch.zeros(memory, *source.shape, dtype=torch.uint8)
    labels = torch.zeros(memory, dtype=torch.int64)
    seen, seconds, clock = 0, 0.0, clock_of()
    for batch in stream.batches(setting.batch):
        begun = clock()
        x, y = batch.inputs, batch.labels
        if seen:
            slots = torch.from_numpy(rng.choice(min(seen, memory), min(setting.replay, seen, memory), replace=False))
            x, y = torch.cat([kept[slots], x]), torch.cat([labels[slots], y])
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(x.float() / 255), y).backward()
        optimizer.step()
        for picture, label in zip(batch.inputs, batch.labels):
            slot = seen if seen < memory else int(rng.integers(seen + 1))
            if slot < memory:
                kept[slot], labels[slot] = picture, label
            seen += 1
        seconds += clock() - begun
    network.eval()
    return seconds, _accuracy(stream, lambda x: network(x.float() / 255).argmax(1))


def ours(source: Source, stream: Stream, setting: Setting, memory: int, seed: int) -> tuple[float, float]:
    """Seconds and accuracy of `ER`."""
    model = build_model(setting.backbone, channels=source.shape[0], size=source.shape[1], seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    learner = ER(model, optimizer, memory=memory, replay=setting.replay, seed=seed, precision="float32")
    seconds, clock = 0.0, clock_of()
    for batch in stream.batches(setting.batch):
        begun = clock()
        learner.observe(batch)
        seconds += clock() - begun
    return seconds, _accuracy(stream, lambda x: learner.predict(x).labels)


def avalanche(source: Source, stream: Stream, setting: Setting, memory: int, seed: int) -> tuple[float, float]:
    """Seconds and accuracy of Avalanche's `Replay`, which replays samples of earlier tasks only."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Replay

    torch.manual_seed(seed)
    parts = []
    for task in stream.tasks:
        inputs, _, kept = load(source, np.asarray(task))
        part = TensorDataset(inputs.float() / 255, stream.labels(kept))
        part.targets = stream.labels(kept).tolist()  # type: ignore[attr-defined]  # where Avalanche looks for them
        parts.append(as_classification_dataset(part))
    network = Network(source, setting.backbone, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=setting.lr)
    strategy = Replay(
        model=network, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), mem_size=memory, train_epochs=1,
        train_mb_size=setting.batch, evaluator=EvaluationPlugin(),
    )  # fmt: skip
    seconds, clock = 0.0, clock_of()
    for experience in benchmark_from_datasets(train=parts).train_stream:
        begun = clock()
        strategy.train(experience)
        seconds += clock() - begun
    network.eval()
    return seconds, _accuracy(stream, lambda x: network(x.float() / 255).argmax(1))


def run_peers(
    source: Source,
    setting: Setting,
    memory: int,
    seeds: Sequence[int],
    chosen: Sequence[str],
    file: Path,
    show: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Run each of the chosen with each seed, taking turns, if the file does not hold it yet, and append it.

    Parameters
    ----------
    source : Source
        Best held in memory.
    setting : Setting
    memory : int
    seeds : sequence of int
    chosen : sequence of str
        Keys of `PEERS`.
    file : Path
        JSON lines: what was run on this machine with the same source and setting is taken from it.
    show : callable, optional
        Called with a line of text for each.

    Returns
    -------
    list of dict
        table, source, tasks, name, seed, memory, samples, seconds, seconds_per_1000, accuracy, and the machine.
    """
    known = {_key(row): row for row in read_rows(file)}
    found = []
    for seed in seeds:
        stream = class_incremental(source, setting.tasks, seed=seed)
        for name, work in (PEERS[each] for each in chosen):
            row: Result = {"table": 3, "source": Path(source.name).name, "tasks": setting.tasks, "name": name}
            row |= {"seed": seed, "memory": memory, "samples": len(stream), **machine()}
            if _key(row) not in known:
                seconds, accuracy = work(source, stream, setting, memory, seed)
                per_1000 = round(1000 * seconds / len(stream), 2)
                row |= {"seconds": round(seconds, 2), "seconds_per_1000": per_1000, "accuracy": accuracy}
                append_rows(file, [row])
                known[_key(row)] = row
                show(f"{name}, seed {seed}: {per_1000} s per 1000 samples, {accuracy:.1%}")
            found.append(known[_key(row)])
    return found


def _key(row: Result) -> str:
    """What tells a result from all others; times compare on one machine only."""
    names = ("table", "source", "name", "seed", "memory", "samples", "cpu", "threads", "torch", "python")
    return json.dumps([row.get("tasks", Setting().tasks), *(row.get(name) for name in names)])


def table(
    data: str,
    methods: str | None,
    memory: str | None,
    seeds: int,
    tasks: int | None,
    most: int | None,
    file: Path,
    show: Callable[[str], None],
) -> tuple[str, list[Result]]:
    """What the command asks for: the table's title and its rows; new ones are appended to the file."""
    chosen = (methods or ",".join(PEERS)).split(",")
    for name in chosen:
        if name not in PEERS:
            raise SettingError(f"there is no line {name!r} in table 3; expected some of {', '.join(PEERS)}")
    if memory is not None and not memory.isdecimal():
        raise SettingError(f"--memory is {memory!r}; table 3 takes one whole number")
    if find_spec("avalanche") is None and "avalanche" in chosen:
        show("Avalanche is not installed (pip install avalanche-lib): its line is left out")
        chosen = [name for name in chosen if name != "avalanche"]
    source, remembered = open_source(data), int(memory or 1000)
    source = into_memory(thinned_to(source, most))
    setting = Setting(tasks=tasks or min(5, len(source.class_names)))
    rows = run_peers(source, setting, remembered, range(seeds), chosen, file, show)
    return f"{Path(source.name).name}, {setting.tasks} tasks, memory {remembered}, {setting.backbone}, float32", rows


def as_markdown(rows: Sequence[Result]) -> str:
    """A line for each peer: means over seeds, and the time as a multiple of the bare loop's."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = ["| replay | seeds | s per 1000 samples | × the bare loop | accuracy % |", "|---|---|---|---|---|"]

    def mean(name: str, what: str) -> float:
        return float(np.mean([row[what] for row in rows if row["name"] == name]))

    base = mean(PEERS["bare"][0], "seconds_per_1000") if PEERS["bare"][0] in names else None
    for name in names:
        n = sum(row["name"] == name for row in rows)
        seconds = mean(name, "seconds_per_1000")
        times = f"{seconds / base:.2f}" if base else ""
        lines.append(f"| {name} | {n} | {seconds:.2f} | {times} | {100 * mean(name, 'accuracy'):.1f} |")
    return "\n".join(lines)


def _accuracy(stream: Stream, predict: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean over tasks of the accuracy on their held-out samples."""
    means = []
    for indices in stream.tests():
        inputs, _, kept = load(stream.source, indices)
        with torch.no_grad():
            said = torch.cat([predict(part) for part in inputs.split(500)])
        means.append(float((said == stream.labels(kept)).float().mean()))
    return float(np.mean(means))


PEERS: dict[str, tuple[str, Callable[[Source, Stream, Setting, int, int], tuple[float, float]]]] = {
    "bare": ("bare PyTorch loop", bare),
    "everlearn": ("Everlearn ER", ours),
    "avalanche": ("Avalanche's Replay", avalanche),
}
