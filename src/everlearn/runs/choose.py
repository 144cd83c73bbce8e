"""Settings that nobody gave, chosen from what is seen: pictures and their number, the machine, weights at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.data import Source
from everlearn.data.named import cache_folder
from everlearn.learners.device import default_device
from everlearn.models import OURS
from everlearn.runs.build import default_lr

_LARGEST_MEMORY = 512 * 2**20  # bytes of remembered pictures
_LONG_STREAM = 30  # samples for each place in memory: measured below 20 a reservoir remembers better, at 50 worse
_FROZEN_SIZE = 128  # pixels a side below which a pretrained backbone sees too little

AVERAGED = ("er", "er_ace", "der", "mir", "gss", "aser", "agem", "scr")
"""Methods that train all along, by replay: averaged weights predict better."""


@dataclass(frozen=True)
class Seen:
    """What there is to choose from.

    Parameters
    ----------
    size, channels : int
        Of the pictures as they are, 224 where they differ or are larger than 256.
    samples, classes : int
        To learn.
    in_memory : bool
        Whether reading a picture costs nothing.
    accelerator : str or None
        As torch names it.
    cores : int
        That this process may use.
    weights : Path or None
        A file of pretrained weights.
    backbone : str or None
        Whose they are.
    processes : int
        That learn together.
    sites, tasks : int
        That the samples to learn are of, where the source tells.
    """

    size: int
    channels: int
    samples: int
    classes: int
    in_memory: bool
    accelerator: str | None = None
    cores: int = 1
    weights: Path | None = None
    backbone: str | None = None
    processes: int = 1
    sites: int = 0
    tasks: int = 0


@dataclass(frozen=True)
class Chosen:
    """A value and why."""

    value: Any
    why: str


def look(
    source: Source | None, weights: Path | None, wanted: str | None = None, shape: tuple[int, int, int] = (3, 64, 64)
) -> Seen:
    """See what there is.

    Parameters
    ----------
    source : Source or None
        Opened in its own size; None if there is nothing yet.
    weights : Path or None
        The file that was given; else one is looked for in `weights_folder`.
    wanted : str or None
        The backbone that was given: only its weights count then.
    shape : tuple of int
        (C, H, W) where there is no source.
    """
    device = default_device()
    at_hand = [weights] if weights else sorted(weights_folder().glob("*.safetensors"))
    known = [(file, name) for file in at_hand if (name := wanted if weights and wanted else backbone_of(file))]
    if wanted is not None:
        known = [(file, name) for file, name in known if name == wanted]
    file, name = known[0] if known else (None, None)
    channels, size, _ = source.shape if source else shape
    samples, classes = (int((~source.test).sum()), len(source.class_names)) if source else (0, 0)
    return Seen(
        size, channels, samples, classes, source.in_memory if source else False,
        None if device.type == "cpu" else device.type, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1, file, name, sites=different(source, "sites"), tasks=different(source, "tasks"),
    )  # fmt: skip


def different(source: Source | None, column: str) -> int:
    """How many sites or tasks the samples to learn are of; 0 where the source does not tell."""
    values = getattr(source, column, None)
    return 0 if source is None or values is None else len(np.unique(values[~source.test]))


def weights_folder() -> Path:
    """Where weights are looked for that no one named: files called as timm calls the backbone."""
    return cache_folder() / "weights"


def backbone_of(file: Path) -> str | None:
    """The backbone whose name a file of weights begins with; the longest such name.

    Examples
    --------
    >>> backbone_of(Path("tf_efficientnet_lite0_imagenet_fp16.safetensors")), backbone_of(Path("mine.safetensors"))
    ('tf_efficientnet_lite0', None)
    """
    import timm

    fits = [name for name in [*OURS, *timm.list_models()] if file.name.startswith(name)]
    return max(fits, key=len, default=None)


def choose(seen: Seen, given: dict[str, Any]) -> dict[str, Chosen]:
    """A value and a reason for every setting that was not given.

    Parameters
    ----------
    seen : Seen
    given : dict
        What was said: any of backbone, weights, pretrained, size, channels, method, lr, memory, tasks, scenario,
        workers. It always wins, and what follows from it is chosen to fit.

    Returns
    -------
    dict
        Of those left: backbone, weights, size, channels, method, lr, memory, tasks, workers, average, shapley_update.

    Examples
    --------
    >>> found = choose(Seen(size=8, channels=1, samples=1438, classes=10, in_memory=True), {"memory": 200})
    >>> {name: found[name].value for name in ("backbone", "size", "method", "lr", "tasks", "workers", "average")}
    {'backbone': 'slim_resnet18', 'size': 8, 'method': 'aser', 'lr': 0.1, 'tasks': 5, 'workers': 0, 'average': 0.5}
    """
    found: dict[str, Chosen] = {}

    def settle(name: str, value: Any, why: str) -> Any:
        if given.get(name) is not None:
            return given[name]
        found[name] = Chosen(value, why)
        return value

    backbone = settle("backbone", *_backbone(seen, given))
    ready = seen.weights is not None and seen.backbone == backbone
    if ready:
        settle("weights", str(seen.weights), "pretrained weights at hand")
    pretrained = ready or bool(given.get("pretrained")) or bool(given.get("weights"))
    size = settle("size", *_size(seen, backbone, pretrained))
    colour = backbone not in OURS
    own = "all pictures looked at are grey" if seen.channels == 1 else "there are colour pictures"
    why = "what the backbone was made for" if colour else own
    channels = settle("channels", 3 if colour else seen.channels, why)
    method = settle("method", *_method(seen, pretrained))
    settle("lr", default_lr(backbone), "trained from the beginning" if backbone in OURS else "for a backbone of timm's")
    memory = settle("memory", *_memory(seen, size, channels, given.get("method")))
    tasks = given.get("tasks") or 5
    if given.get("scenario") in (None, "class", "blurred"):
        tasks = settle("tasks", max(1, min(5, seen.classes)), f"there are {seen.classes} classes")
    settle("workers", *_workers(seen))
    if (
        seen.samples
        and backbone in OURS
        and method in AVERAGED
        and not {"average", "mkd"} & set(given.get("options") or {})
    ):
        tasks = learned_apart(given, tasks, seen.sites, seen.tasks)
        settle("average", *average_over(seen.samples, (given.get("batch") or 10) * seen.processes, tasks))
    few = 0 < seen.samples < _LONG_STREAM * memory
    if backbone in OURS and method == "aser" and few and "shapley_update" not in (given.get("options") or {}):
        settle("shapley_update", False, f"a reservoir: fewer than {_LONG_STREAM} samples for each place in memory")
    return found


def options_of(found: dict[str, Chosen]) -> dict[str, Any]:
    """Those of the chosen values that are options of a method."""
    return {name: found[name].value for name in ("average", "shrinkage", "shapley_update") if name in found}


def _backbone(seen: Seen, given: dict[str, Any]) -> tuple[str, str]:
    if seen.backbone is not None:
        return seen.backbone, f"its pretrained weights are at hand: {seen.weights.name if seen.weights else ''}"
    if given.get("pretrained"):
        return "tf_efficientnet_lite0", "a small network, good on a CPU, whose pretrained weights timm has"
    return "slim_resnet18", f"no pretrained weights at hand, given or in {weights_folder()}"


def _size(seen: Seen, backbone: str, pretrained: bool) -> tuple[int, str]:
    if backbone in OURS:
        largest, why = 64, "the small networks keep full resolution in their first stage"
    else:
        largest, why = 224, "what the backbone was made for"
    if pretrained and backbone not in OURS and seen.size < _FROZEN_SIZE:
        return _FROZEN_SIZE, f"enlarged from {seen.size}: pretrained backbones see little in small pictures"
    return (largest, why) if seen.size > largest else (seen.size, "the pictures' own")


def _method(seen: Seen, pretrained: bool) -> tuple[str, str]:
    if pretrained and seen.accelerator is None:
        return "ncm", "class means on a frozen pretrained backbone: seconds on a CPU, nothing is forgotten"
    if pretrained:
        return "aser", f"there is an accelerator ({seen.accelerator}) to train the whole backbone"
    return "aser", "no pretrained features: the backbone is learned, and Shapley values say what to remember"


def _memory(seen: Seen, size: int, channels: int, method: str | None) -> tuple[int, str]:
    if method in ("joint", "offline"):
        return seen.samples, f"{method} keeps every sample"
    wanted, why = 1000, "usual"
    if 20 * seen.classes > wanted:
        wanted, why = 20 * seen.classes, "20 for each class"
    most = max(1, _LARGEST_MEMORY // (size * size * channels))
    if most < wanted:
        return most, f"half a gigabyte of pictures of {size} pixels"
    return wanted, f"{why}; more than there are to learn now" if wanted >= seen.samples else why


def learned_apart(given: dict[str, Any], tasks: int, sites: int = 0, own: int = 0) -> int:
    """How many tasks a stream has: as was settled, or as the scenario has it; one where there are no borders.

    Examples
    --------
    >>> [learned_apart({"scenario": name}, tasks=2, sites=3) for name in ("class", "time", "site", "shuffled")]
    [2, 2, 3, 1]
    """
    if given.get("watch"):
        return 1
    special = {"shuffled": 1, "blurred": 1, "site": sites, "task": own, "domain": len(given.get("shifts") or ())}
    return max(1, special.get(given.get("scenario") or "class", tasks))


def average_over(samples: int, batch: int, tasks: int) -> tuple[float, str]:
    """The option ``average`` for so many samples, and why.

    Examples
    --------
    >>> average_over(1000, 10, 2)
    (0.2, 'weights averaged over 5 steps predict better than the last ones; a task has 50')
    """
    steps = max(1, samples // (batch * tasks))  # of a task
    reach = min(100, max(1, steps // 10))
    what = "a task" if tasks > 1 else "the stream"
    return 1 / reach, f"weights averaged over {reach} steps predict better than the last ones; {what} has {steps}"


def _workers(seen: Seen) -> tuple[int, str]:
    if seen.in_memory:
        return 0, "the pictures are in memory"
    if seen.samples < 2000 or seen.cores < 2:
        few = "one core" if seen.cores < 2 else f"{seen.samples} pictures are soon read"
        return 0, few
    return min(4, seen.cores - 1), f"of {seen.cores} cores, to decode {seen.samples} pictures ahead"
