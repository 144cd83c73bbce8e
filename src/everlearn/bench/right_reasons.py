"""Table 2 of explanations: a shortcut in chest X-rays, shown by maps and by exchanged frames, and its cure.

Results go to a file of JSON lines, one for each model, so that an interrupted table goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.bench.chest import Chest, Pictures
from everlearn.bench.continual import append_rows, read_rows
from everlearn.bench.shortcut import accuracies, balanced, colour
from everlearn.data import Batch
from everlearn.errors import SettingError
from everlearn.explainers import EXPLAINERS
from everlearn.learners import ER, Learner, Offline
from everlearn.metrics.explanation_drift import explanation_drift
from everlearn.metrics.faithfulness import random_maps
from everlearn.metrics.localisation import energy_in_region
from everlearn.models import OURS, Model, build_model

EXPLAINED = {
    "random": "random map, spectrum of Grad-CAM",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "frugal_sise": "FrugalSISE",
    "sise": "SISE",
}
_FAST = ("random", "grad_cam")
_DRAWN = 6  # pictures whose maps are kept for the docs


@dataclass(frozen=True)
class Setting:
    """How models are learned.

    Parameters
    ----------
    backbone : str
        As `build_model` knows it.
    size : int
        Pixels a side.
    epochs, batch : int
        Of the models whose shortcut is measured.
    region, rrr : float
        Weights of the penalties.
    frames : float
        Share of the samples that a step shows in another one's frame.
    memory, incoming : int
        Of the learners along the stream: samples remembered, samples of a batch and of those replayed beside it.
    most : int, optional
        Pictures of each class.
    """

    backbone: str = "tf_efficientnet_lite0"
    size: int = 128
    epochs: int = 2
    batch: int = 20
    region: float = 1.0
    rrr: float = 1.0
    frames: float = 0.5
    memory: int = 200
    incoming: int = 10
    most: int | None = None

    @property
    def cures(self) -> dict[str, dict[str, Any]]:
        """Lines of the first two tables: name → options of the learner."""
        region, frames = {"region": self.region}, {"frames": self.frames}
        return {"plain": {}, **{_called(each): each for each in (region, frames, region | frames)}}

    @property
    def learners(self) -> dict[str, dict[str, Any]]:
        """Lines of the table along the stream: name → options of ER."""
        return {
            "ER": {},
            f"ER, rrr = {self.rrr:g}": {"rrr": self.rrr},
            f"ER, rrr = {self.rrr:g}, region = {self.region:g}": {"rrr": self.rrr, "region": self.region},
        }


def run_table(
    chest: Chest,
    setting: Setting,
    weights: Path | None,
    methods: Sequence[str],
    seeds: Sequence[int],
    file: Path,
    *,
    pictures: int = 24,
    slow: int = 6,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Learn and measure what the file does not hold yet, and append it.

    Parameters
    ----------
    chest : Chest
    setting : Setting
    weights : Path, optional
        Of the backbone; without it timm fetches them.
    methods : sequence of str
        Keys of `EXPLAINED`; Grad-CAM and random maps for every seed, the others for the first.
    seeds : sequence of int
    file : Path
        JSON lines.
    pictures, slow : int
        Explained of each kind, at most, by the slower methods and by SISE; Grad-CAM and random maps are made of all.
    show : callable, optional
        Called with a line of text before each model.

    Returns
    -------
    list of dict
        One for each cure and seed, and one for each learner and seed.
    """
    unknown = [name for name in methods if name not in EXPLAINED]
    if unknown:
        raise SettingError(f"there is no line {unknown[0]!r}; expected some of {', '.join(EXPLAINED)}")
    known = {_key(row): row for row in read_rows(file)}
    counts = {name: None if name in _FAST else slow if name == "sise" else pictures for name in methods}
    work: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = []
    for seed in seeds:
        for name, options in setting.cures.items():
            tried = {m: n for m, n in counts.items() if seed == seeds[0] or m in _FAST}
            head = {"part": "cure", "name": name, "seed": seed, "explained": tried}
            work.append((head, partial(cured, chest, setting, weights, options, tried, seed)))
        for name, options in setting.learners.items():
            head = {"part": "stream", "name": name, "seed": seed}
            work.append((head, partial(along_stream, chest, setting, weights, options, seed)))
    found = []
    for head, measure in work:
        head |= {"setting": asdict(setting)}
        if _key(head) not in known:
            show(f"{head['part']} {head['name']}, seed {head['seed']}")
            row = head | measure() | {"torch": torch.__version__}
            append_rows(file, [row])
            known[_key(head)] = row
        found.append(known[_key(head)])
    return found


def cured(
    chest: Chest,
    setting: Setting,
    weights: Path | None,
    options: dict[str, Any],
    counts: dict[str, int | None],
    seed: int,
) -> dict[str, Any]:
    """Learn all classes at once, held to the lungs by options, and measure."""
    learner = _offline(chest, setting, weights, options, seed)
    row: dict[str, Any] = {"accuracy": accuracies(learner, chest, seed), "energy": {}}
    kinds = {
        "elsewhere": chest.elsewhere.select(chest.masked & (chest.elsewhere.labels >= 0)),
        "test": chest.test,
        "boxes": chest.test.select(chest.test.boxes.flatten(1).any(1)),
    }
    for method, count in counts.items():
        for kind, all_of in kinds.items():
            if not len(all_of):
                continue
            some = all_of if count is None else spread(all_of, count)
            maps = explained(learner, some, method, seed)
            regions = some.boxes if kind == "boxes" else some.regions
            energy = energy_in_region(maps, regions)
            area = regions.float().mean((1, 2, 3))
            row["energy"][f"{method}/{kind}"] = [float(energy.nanmean()), float(area.mean()), len(some)]
    shown = spread(chest.test.select(chest.test.boxes.flatten(1).any(1)), _DRAWN)
    if len(shown):
        maps = F.avg_pool2d(explained(learner, shown, "grad_cam", seed), 4)
        row["drawn"] = (maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)).mul(100).round().int()[:, 0].tolist()
    return row


def explained(learner: Learner, pictures: Pictures, method: str, seed: int) -> Tensor:
    """Maps ``[n, 1, S, S]`` of what each picture's own class rests on, without negative values."""
    x = learner.model.normalise(colour(pictures.inputs))
    target = torch.tensor([learner.classes.codes.index(int(code)) for code in pictures.labels])
    name = "grad_cam" if method == "random" else method
    maps = EXPLAINERS[name](learner.model).attribute(x, target)
    if method == "random":
        maps = random_maps(maps, torch.Generator().manual_seed(seed))
    return maps.clamp(min=0)


def along_stream(
    chest: Chest, setting: Setting, weights: Path | None, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The two largest classes, then one after the other; accuracy, forgetting, and how far maps drift."""
    order = torch.bincount(chest.learned.labels).argsort(descending=True, stable=True).tolist()
    tasks = [order[:2], *([c] for c in order[2:])]
    model = _model(setting, weights, seed)
    learner = ER(
        model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), memory=setting.memory, replay=setting.incoming,
        seed=seed, precision="float32", **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    tests = [chest.test.select(torch.isin(chest.test.labels, torch.tensor(task))) for task in tasks]
    after: list[list[float]] = []
    maps: list[Tensor] = []
    for number, task in enumerate(tasks):
        _observe(learner, chest.learned, task, number, setting.incoming, generator)
        after.append([balanced(learner, t.inputs, t.labels) for t in tests[: number + 1]])
        maps.append(explained(learner, tests[number], "grad_cam", seed))
    last = [explained(learner, t, "grad_cam", seed) for t in tests]
    drift = explanation_drift(maps, last)
    inside = torch.cat([energy_in_region(m, t.regions) for m, t in zip(last, tests)]).nanmean()
    return {
        "accuracy": balanced(learner, chest.test.inputs, chest.test.labels),
        "forgetting": statistics.mean(max(row[t] for row in after[t:]) - after[-1][t] for t in range(len(tasks) - 1)),
        "distance": drift.distance,
        "correlation": drift.correlation,
        "energy": float(inside),
    }


def _offline(chest: Chest, setting: Setting, weights: Path | None, options: dict[str, Any], seed: int) -> Offline:
    model, n = _model(setting, weights, seed), len(chest.learned)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    learner = Offline(
        model, optimizer, memory=n, epochs=setting.epochs, batch=setting.batch, seed=seed, precision="float32",
        **options,
    )  # fmt: skip
    classes = list(range(len(chest.class_names)))
    _observe(learner, chest.learned, classes, 0, 200, torch.Generator().manual_seed(seed))
    learner.fit()
    return learner


def _model(setting: Setting, weights: Path | None, seed: int) -> Model:
    pretrained = weights is None and setting.backbone not in OURS
    return build_model(
        setting.backbone, channels=3, size=setting.size, seed=seed, weights=weights, pretrained=pretrained
    )


def _observe(
    learner: Learner, pictures: Pictures, classes: list[int], task: int, batch: int, generator: torch.Generator
) -> None:
    own = torch.isin(pictures.labels, torch.tensor(classes)).nonzero().flatten()
    for ids in own[torch.randperm(len(own), generator=generator)].split(batch):
        some = pictures.select(ids)
        margin = pictures.inputs.shape[2] // 32  # the hila and what lies behind the borders may speak too
        regions = F.max_pool2d(some.regions.float(), 2 * margin + 1, 1, margin).to(torch.uint8) * 255
        learner.observe(Batch(colour(some.inputs), some.labels, ids, task, regions=regions))


def spread(pictures: Pictures, count: int) -> Pictures:
    """At most so many, as many of each class as there are, in their order."""
    keep: list[int] = []
    present = pictures.labels.unique().tolist()
    for c in present:
        own = (pictures.labels == c).nonzero().flatten()
        n = min(len(own), -(-count // len(present)))
        keep += own[torch.linspace(0, len(own) - 1, n).long()].tolist()
    return pictures.select(torch.tensor(sorted(keep), dtype=torch.int64))


def _called(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in options.items())


def _key(row: dict[str, Any]) -> str:
    return repr([row.get(name) for name in ("part", "name", "seed", "setting", "explained")])
