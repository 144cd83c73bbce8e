"""Results of table 2 as tables, and as a picture of maps before and after."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import torch

from everlearn.bench.chest import Pictures, read_chest
from everlearn.bench.right_reasons import EXPLAINED, Setting, run_table, spread
from everlearn.errors import SettingError

MEASURES = {
    "test": "accuracy",
    "frames exchanged": "in exchanged frames",
    "follows": "given the frame's class",
    "frame alone": "frame alone",
    "lungs alone": "lungs alone",
}
KINDS = {
    "elsewhere": "lungs, marked by hand",
    "test": "lungs, as the U-Net finds them",
    "boxes": "radiologists' boxes",
}
ALONG = {
    "accuracy": (1, "accuracy, %"),
    "forgetting": (1, "forgetting, %"),
    "distance": (1, "energy that moved, %"),
    "correlation": (2, "correlation"),
    "energy": (1, "energy in the lungs, %"),
}


def table(
    data: Path,
    lungs: Path | None,
    weights: Path | None,
    methods: str | None,
    seeds: Sequence[int],
    results: Path,
    *,
    pictures: int,
    slow: int,
    size: int,
    quick: bool,
    picture: Path | None,
    show: Callable[[str], None],
) -> tuple[str, str, dict[str, Any]]:
    """Read, run and summarise: a title, the tables as Markdown, and everything for ``--json``.

    Raises
    ------
    SettingError
        If the second set is not given, or a method is unknown.
    DataError
        If a set cannot be used.
    """
    if lungs is None:
        raise SettingError("table 2 needs --lungs FOLDER beside --data FOLDER: X-rays with lung masks in meta.jsonl")
    names = (methods or ("random,grad_cam" if quick else ",".join(EXPLAINED))).split(",")
    setting = Setting(size=min(size, 96), epochs=6, most=60) if quick else Setting(size=size)
    scratch = results.parent / f"{results.stem}-lungs-{setting.size}{'-quick' if quick else ''}.safetensors"
    show("reading pictures, learning where lungs are")
    chest = read_chest(data, lungs, setting.size, scratch, setting.most, epochs=8 if quick else 20)
    rows = run_table(chest, setting, weights, names, list(seeds), results, pictures=pictures, slow=slow, show=show)
    if picture is not None:
        draw(rows, chest.test, picture)
    found = summary(rows)
    counts = f"{len(chest.learned)} learned, {len(chest.test)} held out, {len(chest.elsewhere)} of the second set"
    what = f"{data.name}: {counts}; {setting.backbone}, {setting.size} pixels; Dice of the lungs {chest.dice:.3f}"
    return what, as_markdown(found, chest.class_names), {"dice": chest.dice, "setting": asdict(setting), **found}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Three tables out of `run_table`'s rows; every figure is [mean, lowest, highest] over seeds.

    Examples
    --------
    >>> row = {"part": "stream", "name": "ER", "seed": 0, "accuracy": 60.0, "forgetting": 9.0, "distance": 0.2,
    ...        "correlation": 0.5, "energy": 0.4}
    >>> summary([row, row | {"seed": 1, "distance": 0.4}])["stream"][0]["distance"]
    [30.0, 20.0, 40.0]
    """
    tables: dict[str, list[dict[str, Any]]] = {"accuracy": [], "energy": [], "stream": []}
    for (part, name), group in _groups(rows, "part", "name").items():
        entry: dict[str, Any] = {"name": name, "seeds": len(group)}
        if part == "stream":
            for measure in ALONG:
                share = 100 if measure in ("distance", "energy") else 1
                entry[measure] = _range([share * row[measure] for row in group])
            tables["stream"].append(entry)
            continue
        for measure in MEASURES:
            entry[measure] = _range([row["accuracy"][measure] for row in group])
        there = [row["accuracy"]["elsewhere"] for row in group]
        entry["elsewhere"] = {
            of: [_range([each[of][k] for each in there]) for k in range(len(there[0][of]))] for of in there[0]
        }
        tables["accuracy"].append(entry)
        for method in EXPLAINED:
            kinds = {kind: [row["energy"][f"{method}/{kind}"] for row in group if f"{method}/{kind}" in row["energy"]]
                     for kind in KINDS}  # fmt: skip
            if any(kinds.values()):
                found = {kind: _energy(values) for kind, values in kinds.items() if values}
                tables["energy"].append({"name": name, "explainer": EXPLAINED[method], **found})
    return tables


def as_markdown(tables: dict[str, list[dict[str, Any]]], class_names: Sequence[str]) -> str:
    """The three tables, and behind the first one what pictures of the second set are taken for."""
    models, maps, stream = tables["accuracy"], tables["energy"], tables["stream"]
    parts = [
        _table(["learned", *MEASURES.values()], [[e["name"], *(_text(e[m], 1) for m in MEASURES)] for e in models])
    ]
    heads = ["pictures of the second set", "learned", *(f"taken for {name}" for name in class_names)]
    of = list(models[0]["elsewhere"]) if models else []
    parts.append(_table(heads, [[c, e["name"], *(_text(v, 0) for v in e["elsewhere"][c])] for c in of for e in models]))
    order = list(EXPLAINED.values())
    lines = [
        [
            e["explainer"],
            e["name"],
            *(f"{_text(e[kind]['energy'], 1)}, n = {e[kind]['pictures']}" if kind in e else "–" for kind in KINDS),
        ]
        for e in sorted(maps, key=lambda e: order.index(e["explainer"]))
    ]
    known = [next((e[kind] for e in maps if kind in e), None) for kind in KINDS]
    lines.append(["share of the picture", "", *(f"{k['area']:.1f}" if k else "–" for k in known)])
    parts.append(_table(["energy of the map, %", "learned", *KINDS.values()], lines))
    heads = ["along the stream", *(head for _, head in ALONG.values())]
    parts.append(_table(heads, [[e["name"], *(_text(e[m], d) for m, (d, _) in ALONG.items())] for e in stream]))
    return "\n\n".join(parts)


def draw(rows: Sequence[dict[str, Any]], pictures: Pictures, file: Path) -> None:
    """Grad-CAM before and after beside the pictures, radiologists' boxes in white, the lungs' outline in grey.

    Parameters
    ----------
    rows : sequence of dict
        From `run_table`; the first seed's are drawn.
    pictures : Pictures
        The test pictures.
    file : Path
        A PNG; its folder is made.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    maps = {row["name"]: row["drawn"] for row in reversed(rows) if row.get("drawn")}
    boxed = pictures.select(pictures.boxes.flatten(1).any(1))
    shown = spread(boxed, len(next(iter(maps.values()))))
    names = [name for name in dict.fromkeys(row["name"] for row in rows) if name in maps]
    figure, axes = plt.subplots(
        1 + len(names), len(shown), figsize=(1.5 * len(shown), 1.6 * (1 + len(names))), squeeze=False
    )
    side = shown.inputs.shape[2]
    for i in range(len(shown)):
        for row, name in enumerate([None, *names]):
            axis = axes[row][i]
            axis.imshow(shown.inputs[i, 0], cmap="gray", vmin=0, vmax=255)
            if name is not None:
                heat = torch.tensor(maps[name][i], dtype=torch.float32) / 100
                axis.imshow(heat, cmap="inferno", alpha=0.55, extent=(-0.5, side - 0.5, side - 0.5, -0.5),
                            interpolation="bilinear", vmin=0, vmax=1)  # fmt: skip
            axis.contour(shown.regions[i, 0], [0.5], colors="0.7", linewidths=0.6)
            axis.contour(shown.boxes[i, 0], [0.5], colors="white", linewidths=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if i == 0:
                axis.set_ylabel("picture" if name is None else name, fontsize=8)
    figure.tight_layout(pad=0.4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def _groups(rows: Sequence[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _energy(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    _, area, count = values[0]
    return {"energy": _range([100 * v[0] for v in values]), "area": 100 * area, "pictures": count}


def _range(values: Sequence[float]) -> list[float] | None:
    """Mean, lowest, highest; None where a figure cannot be given, as the correlation of maps without energy."""
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return None
    return [round(v, 3) for v in (sum(values) / len(values), min(values), max(values))]


def _text(value: Sequence[float] | None, digits: int) -> str:
    if value is None:
        return "–"
    mean, low, high = (f"{v:.{digits}f}" for v in value)
    return mean if low == high else f"{mean} ({low} to {high})"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])
