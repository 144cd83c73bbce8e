"""The table of continual learners: methods × memory sizes × seeds on one class-incremental stream.

Results go to a file of JSON lines as they come, so that a table that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn.bench.costs import clock_of
from everlearn.bench.rows import append_rows, read_rows
from everlearn.data import Source, Stream, class_incremental
from everlearn.data.reading import read_in_order
from everlearn.data.scenarios import select
from everlearn.errors import DataError, SettingError
from everlearn.learners import METHODS, Learner
from everlearn.learners.forwards import counting_forwards
from everlearn.metrics.continual import anytime_accuracy, average_accuracy, forgetting
from everlearn.models import build_model
from everlearn.runs import accuracy


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Parameters
    ----------
    name : str
        As the table calls it.
    method : str
        A key of `METHODS`.
    options : dict
        Settings of the method.
    ncm : str or None
        The name under which the same runs are read off once more, by nearest class mean.

    Examples
    --------
    >>> list(Entry("ER", "er", ncm="ER + NCM").readings(Setting(average=0.01)))
    ['ER', 'ER + NCM', 'ER, averaged', 'ER + NCM, averaged']
    """

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    ncm: str | None = None

    def averages(self, setting: Setting) -> bool:
        """Whether an average of the weights is kept beside what learns."""
        method = METHODS.get(self.method)
        return setting.average > 0 and method is not None and "average" in method.takes

    def readings(self, setting: Setting) -> dict[str, tuple[str, bool]]:
        """By what names one run is read off: with which classifier, and whether averaged weights predict."""
        own = str(self.options.get("classifier", "linear"))
        found = {self.name: (own, False)} | ({self.ncm: ("ncm", False)} if self.ncm else {})
        if self.averages(setting):
            found |= {f"{name}, averaged": (classifier, True) for name, (classifier, _) in found.items()}
        return found


@dataclass(frozen=True)
class Setting:
    """What all lines of a table share: the setting of arXiv 2009.00093 and 2103.13885.

    Parameters
    ----------
    tasks : int
        Groups of classes.
    order : {"natural", "seeded"}
        Of the classes: as the source names them, or shuffled with each run's seed, as in the papers.
    batch, replay : int
        Incoming and replayed samples of a step; a method's own ``replay`` comes first.
    lr : float
        Of plain SGD.
    backbone : str
        As `build_model` names it.
    quick : bool
        Whether the samples were thinned out for a first look.
    average : float
        If above 0, each run is read off once more with weights averaged over about 1/average steps, where the method
        allows it; what is learned is the same.
    """

    tasks: int = 5
    batch: int = 10
    replay: int = 10
    lr: float = 0.1
    backbone: str = "slim_resnet18"
    quick: bool = False
    average: float = 0.0
    order: str = "natural"


def entries(many: bool = False) -> dict[str, Entry]:
    """All lines by their keys; with ``many`` classes ASER takes more candidates."""
    candidates, exact = (300, 150) if many else (120, 90)
    lines = {
        "naive": Entry("naive", "naive"),
        "agem": Entry("A-GEM", "agem"),
        "gss": Entry("GSS", "gss"),
        "er": Entry("ER", "er", ncm="ER + NCM"),
        "mir": Entry("MIR", "mir"),
        "aser": Entry("ASERμ", "aser", {"candidates": candidates}, ncm="ASERμ + NCM"),
        "aser_reservoir": Entry(
            "ASERμ, reservoir memory",
            "aser",
            {"candidates": candidates, "shapley_update": False},
            ncm="ASERμ, reservoir memory + NCM",
        ),
        "aser_exact": Entry(  # as the paper has it: C and S of equal size, and no bound on a class's share (100: none)
            "ASERμ, exact scoring",
            "aser",
            {"candidates": exact, "scoring": "exact", "mix": 100.0},
            ncm="ASERμ, exact scoring + NCM",
        ),
        "scr": Entry("SCR", "scr", {"replay": 100, "classifier": "ncm"}),
        "er_ace": Entry("ER-ACE", "er_ace"),
        "der": Entry("DER++", "der"),
        "icarl": Entry("iCaRL", "icarl", {"classifier": "ncm"}),
        "gdumb": Entry("GDumb", "gdumb"),
        "lwf": Entry("LwF", "lwf"),
        "ewc": Entry("EWC++", "ewc"),
        "mkd": Entry("ER + MKD", "mkd"),
    }
    return lines


def into_memory(source: Source, workers: int = 0) -> Source:
    """The same source with all its pictures read once and held as bytes; an unreadable one is an error."""
    pictures = np.zeros((len(source), *source.shape), dtype=np.uint8)
    for i, picture in enumerate(read_in_order(source, np.arange(len(source)), workers)):
        if isinstance(picture, DataError):
            raise DataError(f"a benchmark needs every sample: {picture}")
        pictures[i] = picture
    held = Source(
        source.name, source.shape, source.class_names, source.labels, source.names, pictures.__getitem__, source.test,
        in_memory=True,
    )  # fmt: skip
    return held


def thinned(source: Source, train: int = 250, test: int = 50, seed: int = 0) -> Source:
    """At most so many samples of each class, for a version of minutes."""
    rng, keep = np.random.default_rng([seed, 7]), []
    for c in range(len(source.class_names)):
        for held_out, most in ((False, train), (True, test)):
            members = np.flatnonzero((source.labels == c) & (source.test == held_out))
            keep.append(rng.permutation(members)[:most])
    return select(source, np.sort(np.concatenate(keep)), f"{source.name}, thinned")


def thinned_to(source: Source, most: int | None) -> Source:
    """At most so many samples of each class and a fifth as many held out, or all; the name says so."""
    if most is None:
        return source
    return replace(thinned(source, most, max(1, most // 5)), name=f"{source.name}, {most} of each class")


def run_table(
    source: Source,
    setting: Setting,
    lines: Sequence[Entry],
    memories: Sequence[int],
    seeds: Sequence[int],
    file: Path,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Run what the file does not hold yet, and append it.

    Parameters
    ----------
    source : Source
        Best held in memory.
    setting : Setting
    lines : sequence of Entry
    memories, seeds : sequence of int
        Every line is run with each memory size and each seed; all lines with the first seed come first.
    file : Path
        JSON lines: what was run with the same source and setting is taken from it.
    show : callable, optional
        Called with a line of text before and during each run.

    Returns
    -------
    list of dict
        The results of this table, old and new: name, method, memory, seed, average_accuracy, forgetting,
        accuracy_matrix, seconds, forwards_per_sample, memory_bytes and more.
    """
    wanted = [(seed, memory, line) for seed in seeds for memory in memories for line in lines]
    known = {key(row): row for row in read_rows(file)}
    found = []
    for done, (seed, memory, line) in enumerate(wanted):
        keys = [key(settings_of(source, setting, line, name, memory, seed)) for name in line.readings(setting)]
        if not all(k in known for k in keys):
            show(f"{done + 1} of {len(wanted)}")
            rows = run_one(source, setting, line, memory, seed, show, clock=clock_of())
            append_rows(file, rows)
            known |= {key(row): row for row in rows}
        found += [known[key] for key in keys]
    return found


def run_one(
    source: Source,
    setting: Setting,
    line: Entry,
    memory: int,
    seed: int,
    show: Callable[[str], None] = lambda text: None,
    build: Callable[..., Learner] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    stream: Stream | None = None,
) -> list[dict[str, Any]]:
    """Learn the stream once; results by the method's own classifier, and by what else the line and setting ask for.

    ``build`` makes the learner from source, setting, line, memory and seed; by default on the setting's backbone.
    ``clock`` tells the seconds of learning. ``stream`` is by default one of the source's classes, in groups.
    """
    title = f"{line.name}, memory {memory}, seed {seed}"
    stream = stream or class_incremental(source, setting.tasks, setting.order, seed)
    learner = (build or _learner)(source, setting, line, memory, seed)
    readings = line.readings(setting)
    matrices: dict[str, list[list[float | None]]] = {name: [] for name in readings}
    seconds, task = 0.0, 0
    with counting_forwards(learner) as count:

        def timed(work: Callable[[], object]) -> None:
            nonlocal seconds
            count.on, begun = True, clock()
            work()
            seconds, count.on = seconds + clock() - begun, False

        def close() -> None:
            """A task is over: measure all tasks so far."""
            timed(learner.end_task)
            for name, reading in readings.items():
                with _reading(learner, *reading):
                    matrices[name].append(_accuracies(learner, stream, task))
            mean = average_accuracy(matrices[line.name])
            show(f"{title}: task {task + 1} of {setting.tasks}, {mean:.1%}, {seconds:.0f} s")

        for batch in stream.batches(setting.batch):
            if batch.task != task:
                close()
                task += 1
            timed(partial(learner.observe, batch))
        close()
    measured = {
        "samples": learner.samples_seen,
        "seconds": round(seconds, 2),
        "forwards_per_sample": round(count.forwards / learner.samples_seen, 2),
        "memory_bytes": learner.memory.nbytes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": "bfloat16" if learner.bfloat16 else "float32",
    }
    return [
        settings_of(source, setting, line, name, memory, seed)
        | {
            "average_accuracy": average_accuracy(matrix),
            "anytime_accuracy": anytime_accuracy(matrix),
            "forgetting": forgetting(matrix),
            "accuracy_matrix": matrix,
        }
        | measured
        for name, matrix in matrices.items()
    ]


def _learner(source: Source, setting: Setting, line: Entry, memory: int, seed: int) -> Learner:
    if line.method not in METHODS:
        raise SettingError(f"no method is called {line.method!r}; there are {', '.join(METHODS)}")
    model = build_model(setting.backbone, channels=source.shape[0], size=source.shape[1], seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    options = {"replay": setting.replay, **line.options}
    if line.averages(setting):
        options["average"] = setting.average
    return METHODS[line.method](model, optimizer, memory=memory, seed=seed, **options)


@contextmanager
def _reading(learner: Learner, classifier: str, averaged: bool) -> Iterator[None]:
    """Let this classifier predict, with averaged weights or those that learn."""
    own, average = learner.classifier, learner.averaged
    learner.classifier, learner.averaged = classifier, average if averaged else None
    learner.forget_derived()
    try:
        yield
    finally:
        learner.classifier, learner.averaged = own, average


def _accuracies(learner: Learner, stream: Stream, task: int) -> list[float | None]:
    tests = stream.tests()
    return [accuracy(learner, stream, indices) if j <= task else None for j, indices in enumerate(tests)]


def settings_of(source: Source, setting: Setting, line: Entry, name: str, memory: int, seed: int) -> dict[str, Any]:
    """What decides a result, and so tells whether it is in the file."""
    known = {"name": name, "method": line.method, "options": line.options, "memory": memory, "seed": seed}
    return known | {"source": Path(source.name).name, "classes": len(source.class_names)} | asdict(setting)


def key(row: dict[str, Any]) -> str:
    """What tells a result from all others."""
    names = ("name", "method", "options", "memory", "seed", "source", "classes")
    known = {name: row.get(name) for name in names}
    known |= {name: row.get(name, default) for name, default in asdict(Setting()).items()}
    return json.dumps(known, sort_keys=True)
