"""What a person sees of a campaign: the batch as a table, and the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from everlearn.discovery import molecules
from everlearn.discovery.campaign import Campaign
from everlearn.discovery.features import Rows
from everlearn.discovery.proposal import Proposal
from everlearn.discovery.reason import Reason
from everlearn.discovery.search import Search
from everlearn.discovery.view import View, views_of
from everlearn.report.page import write
from everlearn.report.pictures import as_written, svg

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("everlearn.report"), autoescape=True, undefined=jinja2.StrictUndefined
)
_DOTS = 3000  # of the map


def write_proposals(campaign: Campaign, proposals: Sequence[Proposal], reasons: Sequence[Reason]) -> Path:
    """``RUN/proposals.csv``: fill in the targets' columns and give it back with ``--results``.

    Candidates are written as the pool has them, for it is read again; a spreadsheet may calculate one such as ``=1+1``.
    """
    text = io.StringIO()
    targets = [target.name for target in campaign.config.targets]
    expected = [f"expected {name}{end}" for name in targets for end in ("", " low", " high")]
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["candidate", *targets, "input", *expected, "why"])
    for i, each in enumerate(proposals):
        shown = [each.outlook.get(name) for name in targets]
        numbers = [f"{v:.6g}" if o else "" for o in shown for v in ((o.value, o.low, o.high) if o else (0, 0, 0))]
        table.writerow(
            [each.candidate, *[""] * len(targets), each.text, *numbers, reasons[i].words if reasons else each.why]
        )
    return write(campaign.path / "proposals.csv", text.getvalue())


def report_campaign(campaign: Campaign, proposals: Sequence[Proposal], reasons: Sequence[Reason]) -> Path:
    """``RUN/report.html``: the batch with reasons, progress, the map of the pool, calibration, what was kept aside."""
    search = campaign.search
    targets = campaign.config.targets
    page = _PAGES.get_template("discovery.html").render(
        title=campaign.path.resolve().name,
        candidates=len(campaign.pool.candidates),
        tried=len(search.tried),
        targets=[{"name": t.name, "way": "small" if t.minimise else "large"} for t in targets],
        notes=search.notes(),
        proposals=[_drawn(campaign, view) for view in views_of(campaign, proposals, reasons)],
        unstable=campaign.unstable,
        progress=progress(campaign),
        map=pool_map(campaign.search, [each.row for each in proposals]),
        calibration=[
            {"target": targets[k].name} | search.calibration(k) for k in range(len(targets)) if search.learnable(k)
        ],
        front=[search.pool.candidates[row].name for row in search.front()] if len(targets) > 1 else [],
        aside=[{"file": file, "row": each.row, "reason": each.reason} for file, each in campaign.aside],
        settings=campaign.config.dump(),
    )
    return write(campaign.path / "report.html", page)


def _drawn(campaign: Campaign, view: View) -> View:
    """The view with its structures drawn."""

    def draw(text: str, weights: Sequence[float] | None = None, size: tuple[int, int] = (320, 240)) -> str:
        return molecules.draw(text, weights, size) if campaign.pool.inputs == "smiles" else ""

    cases = {
        side: [each | {"picture": draw(each["text"], size=(150, 110))} for each in view[side]]
        for side in ("cases_for", "cases_against")
    }
    return view | cases | {"picture": draw(view["text"], view["weights"])}


def progress(campaign: Campaign) -> str:
    """The first target's measurements in the order they came, and the best so far."""
    target = campaign.config.targets[0]
    values = [each.values[0] for each in campaign.measured if each.values[0] is not None]
    if not values:
        return ""
    best = np.minimum.accumulate(values) if target.minimise else np.maximum.accumulate(values)
    figure, axes = _figure()
    axes.plot(range(1, len(values) + 1), values, "o", ms=3, alpha=0.5, label="measured")
    axes.step(range(1, len(values) + 1), best, where="post", label="best so far")
    axes.axvline(len(campaign.pool.measured) + 0.5, color="grey", lw=0.8, ls=":")
    axes.set(xlabel="measurements (dotted: where the pool's own end)", ylabel=as_written(target.name))
    axes.legend(frameon=False)
    return svg(figure)


def pool_map(search: Search, proposed: Sequence[int]) -> str:
    """The pool on the two directions it varies most along, as the surrogate compares candidates."""
    n = len(search.features)
    if n < 3:
        return ""
    shown = np.unique(np.linspace(0, n - 1, min(n, _DOTS)).astype(int))
    table = search.features.table()
    centre = table[shown].mean(0)
    _, _, directions = np.linalg.svd((table[shown] - centre)[:: max(1, len(shown) // 400)], full_matrices=False)

    def place(rows: Sequence[int] | Rows) -> np.ndarray:
        return np.asarray((table[np.asarray(rows, dtype=int)] - centre) @ directions[:2].T)

    figure, axes = _figure()
    axes.scatter(*_columns(place(shown)), s=5, color="#c2cad6", label="pool")
    rows, means, _ = search.values(0)
    if rows:
        dots = axes.scatter(*_columns(place(rows)), s=18, c=means, cmap="viridis", label="measured")
        figure.colorbar(dots, label=as_written(search.config.targets[0].name))
    if proposed:
        dots = _columns(place(proposed))
        axes.scatter(*dots, s=60, facecolors="none", edgecolors="#d0342c", linewidths=1.6, label="next")
    axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[:, 0], points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
