"""The audit of a run's memory: likely wrong labels, near-duplicates, what helps most and what harms most."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import RunError, SettingError
from everlearn.learners import Learner
from everlearn.models import TextModel
from everlearn.models.text import texts_of
from everlearn.report.page import shown_sample, write
from everlearn.runs import Run
from everlearn.valuation.wrong_labels import WrongLabels, wrong_labels

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("everlearn.report"), autoescape=True, undefined=jinja2.StrictUndefined
)
_SIDE = 16  # pixels a side at which pictures are compared
_NEAR = 0.1  # of the median distance to the nearest other: nearer ones are near-duplicates
_ALIKE = 0.99  # correlation of pixels above which a nearest pair is one too


@dataclass(frozen=True)
class Entry:
    """A remembered sample and what all others say of it; fields as in the table."""

    id: int
    name: str
    label: str
    step: int
    slot: int
    value: float
    support: float
    suggested: str
    suggested_support: float
    likely_wrong: bool
    rank: int  # 1 is the likeliest wrong
    duplicate_of: int | None  # the nearest other's id, where the two are near-duplicates
    distance: float
    correlation: float

    def row(self) -> dict[str, Any]:
        """For CSV and JSON."""
        return {k: v for k, v in vars(self).items() if k != "slot"}


@dataclass(frozen=True)
class Audit:
    """What was found in a run's memory.

    Parameters
    ----------
    entries : list of Entry
        All remembered samples, the likeliest wrong first.
    k : int
        Neighbours that voted.
    """

    entries: list[Entry]
    k: int

    @property
    def wrong(self) -> list[Entry]:
        """Likely wrong labels, the likeliest first."""
        return [e for e in self.entries if e.likely_wrong]

    @property
    def duplicates(self) -> list[tuple[Entry, Entry]]:
        """Pairs of near-duplicates, the nearest first; those with different labels before all others."""
        by_id, pairs = {e.id: e for e in self.entries}, {}
        for e in self.entries:
            if e.duplicate_of is not None:
                pairs[tuple(sorted((e.id, e.duplicate_of)))] = (e, by_id[e.duplicate_of])
        return sorted(pairs.values(), key=lambda p: (p[0].label == p[1].label, p[0].distance, p[0].id))

    @property
    def helpful(self) -> list[Entry]:
        """Samples of positive value, the most helpful first."""
        return sorted((e for e in self.entries if e.value > 0), key=lambda e: -e.value)

    @property
    def harmful(self) -> list[Entry]:
        """Samples of negative value, the most harmful first."""
        return sorted((e for e in self.entries if e.value < 0), key=lambda e: e.value)


def audit_run(run: Run, k: int = 20) -> tuple[Audit, Learner]:
    """Judge each remembered sample of a run by all the others: KNN-Shapley values in the run's feature space.

    Parameters
    ----------
    run : Run
    k : int
        Neighbours that vote, 1 or more.

    Raises
    ------
    RunError
        If the run remembers fewer than two samples.
    """
    learner = run.learner()
    names, codes = run.journal.class_names(), learner.classes.codes

    def known(id_: int) -> str:
        row = run.journal.sample(id_)
        return row["name"] if row is not None else f"reviewed case {id_}"

    return audit_memory(learner, [names[c] for c in codes], known, k, str(run.path)), learner


def audit_memory(
    learner: Learner, labels: list[str], known: Callable[[int], str], k: int = 20, title: str = "the learner"
) -> Audit:
    """As `audit_run`, of a learner's memory; ``labels`` by class index, ``known`` gives a sample's name by its id."""
    memory, n = learner.memory, learner.memory.size
    if k < 1:
        raise SettingError(f"k is {k}; expected 1 or more neighbours")
    if n < 2 or memory.inputs is None:
        raise RunError(f"{title} remembers {n} samples; an audit compares each with the others and needs two or more")
    features, targets = learner.features(memory.inputs[:n]).cpu(), memory.targets[:n].cpu()
    found = wrong_labels(features, targets, k)
    near = found.judged.nearest
    of_text = isinstance(learner.model, TextModel)
    alike = (shared_words if of_text else correlations)(memory.inputs[:n].cpu(), near)
    twins = _near_duplicates(found, alike)
    rank = torch.empty(n, dtype=torch.int64)
    order = found.score.argsort(stable=True)
    rank[order] = torch.arange(1, n + 1)
    ids, steps = memory.ids[:n].tolist(), memory.steps[:n].tolist()
    entries = [
        Entry(
            ids[i],
            known(ids[i]),
            labels[int(targets[i])],
            steps[i],
            i,
            float(found.judged.value[i]),
            float(found.judged.support[i]),
            labels[int(found.judged.suggested[i])],
            float(found.judged.suggested_support[i]),
            bool(found.flagged[i]),
            int(rank[i]),
            ids[int(near[i])] if bool(twins[i]) else None,
            float(found.judged.distance[i]),
            float(alike[i]),
        )
        for i in order.tolist()
    ]
    return Audit(entries, k)


def correlations(inputs: Tensor, other: Tensor) -> Tensor:
    """``[n]``: how far the pixels of pictures ``[n, C, H, W]`` go together with those of their partners, −1 to 1.

    Examples
    --------
    >>> x = torch.tensor([[[[0, 9]]], [[[1, 10]]], [[[9, 0]]]], dtype=torch.uint8)
    >>> correlations(x, torch.tensor([1, 0, 0])).round().tolist()
    [1.0, 1.0, -1.0]
    """
    side = (min(_SIDE, inputs.shape[2]), min(_SIDE, inputs.shape[3]))
    small = F.adaptive_avg_pool2d(inputs.float(), side).flatten(1)
    small = F.normalize(small - small.mean(1, keepdim=True), dim=1)
    return (small * small[other]).sum(1).clamp(-1, 1)


def shared_words(inputs: Tensor, other: Tensor) -> Tensor:
    """``[n]``: the share of words that texts ``[n, 1, 1, B]`` have in common with their partners, 0 to 1 (Jaccard).

    Examples
    --------
    >>> from everlearn.data.text import to_bytes
    >>> x = torch.stack([torch.from_numpy(to_bytes(text, 32)) for text in ("A goal", "a goal!", "oil falls")])
    >>> shared_words(x, torch.tensor([1, 0, 0])).tolist()
    [1.0, 1.0, 0.0]
    """
    words = [set(re.findall(r"\w+", text.lower())) for text in texts_of(inputs)]
    pairs = [(words[i], words[j]) for i, j in enumerate(other.tolist())]
    return torch.tensor([len(a & b) / max(1, len(a | b)) for a, b in pairs])


def _near_duplicates(found: WrongLabels, alike: Tensor) -> Tensor:
    usual = found.judged.distance.median()
    near = found.judged.distance <= _NEAR * usual
    return near & (alike > 0.5) | (alike > _ALIKE) & (found.judged.distance <= usual)


def write_csv(audit: Audit, file: Path) -> Path:
    """All remembered samples, the likeliest wrong first; a text that a spreadsheet would calculate gets a ' before it.

    That is one that begins with = + - @, a tab or a carriage return. Numbers stay as they are.
    """
    text = io.StringIO()
    rows = [{name: _uncalculated(value) for name, value in e.row().items()} for e in audit.entries]
    out = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    out.writeheader()
    out.writerows(rows)
    return write(file, text.getvalue())


def _uncalculated(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def audit_page(audit: Audit, learner: Learner, title: str, file: Path, most: int = 24) -> Path:
    """A self-contained page with pictures, at most so many of each kind."""
    inputs, of_text = learner.memory.inputs, isinstance(learner.model, TextModel)
    assert inputs is not None

    def shown(e: Entry) -> dict[str, Any]:
        return e.row() | shown_sample(inputs[e.slot], of_text)

    page = _PAGES.get_template("audit.html").render(
        title=title,
        samples=len(audit.entries),
        k=audit.k,
        most=most,
        counts={"wrong": len(audit.wrong), "duplicates": len(audit.duplicates), "harmful": len(audit.harmful)},
        wrong=[shown(e) for e in audit.wrong[:most]],
        duplicates=[[shown(e) for e in pair] for pair in audit.duplicates[:most]],
        helpful=[shown(e) for e in audit.helpful[:most]],
        harmful=[shown(e) for e in audit.harmful[:most]],
    )
    return write(file, page)
