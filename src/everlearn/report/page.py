"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.data import load
from everlearn.data.naming import writable
from everlearn.errors import RunError
from everlearn.explainers import Evidence, Explanation, explain
from everlearn.learners import Learner
from everlearn.metrics.continual import measures
from everlearn.places import check_place
from everlearn.report import pictures, texts
from everlearn.runs import Run

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("everlearn.report"), autoescape=True, undefined=jinja2.StrictUndefined
)


@dataclass(frozen=True)
class Case:
    """An explained prediction: the picture, what it was called, the truth where it is known, and the explanation."""

    picture: Tensor
    name: str
    truth: str | None
    explanation: Explanation


def report_run(
    run: Run,
    beside: Sequence[Run] = (),
    cases: int = 6,
    file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a run's report, with other runs of the same stream beside it.

    Parameters
    ----------
    run : Run
        The one whose predictions are explained.
    beside : sequence of Run
        Others to compare accuracy with.
    cases : int
        Predictions to explain, half of them wrong ones where there are as many.
    file : Path, optional
        By default ``RUN/report.html``.
    progress : callable, optional
        Called with steps done and all steps, as by `explain`.
    """
    file = file or run.path / "report.html"
    check_place(file.parent)
    learner = run.learner()
    names = run.journal.class_names()
    explained = explained_cases(run, learner, cases, progress)
    page = _PAGES.get_template("run.html").render(
        title=(file.parent if file else run.path).name,
        results=[_result(each) for each in (*beside, run)],
        chart=pictures.accuracy_chart({each.config.learner.method: _curve(each) for each in (*beside, run)}),
        memory=pictures.memory_chart([names[c] for c in learner.classes.codes], _counts(learner)),
        held=learner.memory.size,
        capacity=learner.memory.capacity,
        cases=[case_view(case, names) for case in explained],
        alarms=[
            {"step": row["step"], "kind": row["kind"], **json.loads(row["detail"])} for row in run.journal.alarms()
        ],
        quarantined=[dict(row) for row in run.journal.quarantined()],
        settings=run.config.dump(),
    )
    return write(file, page)


def explanation_page(cases: Sequence[Case], names: dict[int, str], title: str, file: Path) -> Path:
    """Write a page of explained pictures alone."""
    page = _PAGES.get_template("explanations.html").render(
        title=title, cases=[case_view(case, names) for case in cases]
    )
    return write(file, page)


def write(file: Path, text: str) -> Path:
    """Write beside and rename, so that a reader never sees half a page; what is no text becomes �."""
    beside = file.with_name(f".{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(writable(text), encoding="utf-8")
        beside.rename(file)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}") from error
    return file


def explained_cases(
    run: Run, learner: Learner, cases: int, progress: Callable[[int, int], None] | None = None
) -> list[Case]:
    """Held-out samples of the run's streams, spread over the classes, wrong predictions among them, explained."""
    streams = run.streams()
    if not streams:
        return []
    rng, some = np.random.default_rng(run.config.seed), 400 // len(streams)
    held, truth, sample_names = [], [], []
    for stream in streams:
        held_out = np.unique(np.concatenate(stream.tests()))
        inputs, _, kept = load(stream.source, rng.permutation(held_out)[:some])
        held.append(inputs)
        truth += stream.labels(kept).tolist()
        sample_names += [stream.source.names[i] for i in kept.tolist()]
    inputs = torch.cat(held)
    said = learner.predict(inputs).labels.tolist()
    wrong = [i for i, (a, b) in enumerate(zip(truth, said)) if a != b]
    right = _spread([i for i, (a, b) in enumerate(zip(truth, said)) if a == b], truth)
    chosen = _spread(wrong, truth)[: cases // 2]
    chosen = right[: cases - len(chosen)] + chosen
    if not chosen:
        return []
    names = run.journal.class_names()
    method = None if run.config.data.of_texts else "frugal_sise"
    explanations = explain(learner, inputs[chosen], explainer=method, class_names=names, progress=progress)
    return [
        Case(inputs[i], sample_names[i], names[truth[i]], explanation) for i, explanation in zip(chosen, explanations)
    ]


def case_view(case: Case, names: dict[int, str]) -> dict[str, Any]:
    """What a page shows of a case."""
    explanation = case.explanation
    of_text = bool(explanation.parts)

    def remembered(group: Sequence[Evidence]) -> list[dict[str, Any]]:
        return [
            {"label": names[e.code], "value": e.value, "step": e.step} | shown_sample(e.picture, of_text) for e in group
        ]

    if of_text:
        shown: dict[str, Any] = {"parts": texts.coloured(explanation), "rest": explanation.rest}
    else:
        shown = {
            "picture": _shown(case.picture),
            "overlay": pictures.data_url(pictures.overlay(case.picture, explanation.map)),
            "comparable": pictures.data_url(comparable(case)),
        }
    return shown | {
        "name": case.name,
        "of_text": of_text,
        "drawn": explanation.drawn,
        "said": names[explanation.code],
        "probability": explanation.probability,
        "truth": case.truth,
        "speaks_for": remembered(explanation.evidence_for),
        "speaks_against": remembered(explanation.evidence_against),
        "words": explanation.words,
        "verdict": explanation.verdict,
    }


def comparable(case: Case) -> NDArray[np.uint8]:
    """The overlay in colours that can be compared between pictures: full colour is a probability of 1."""
    e = case.explanation
    strength = 1.0 if e.kind == "none" else e.probability
    return pictures.overlay(case.picture, e.map, strength=strength)


def shown_sample(sample: Tensor, of_text: bool) -> dict[str, str]:
    """What a page shows of a remembered sample: its text, or its picture."""
    return {"text": texts.text_of(sample)} if of_text else {"picture": _shown(sample)}


def _shown(picture: Tensor) -> str:
    return pictures.data_url(pictures.enlarge(pictures.to_rgb(picture)))


def _spread(indices: list[int], truth: list[int]) -> list[int]:
    """One sample of each class first, then the others."""
    seen: set[int] = set()
    firsts = [i for i in indices if truth[i] not in seen and not seen.add(truth[i])]  # type: ignore[func-returns-value]
    return firsts + [i for i in indices if i not in firsts]


def _result(run: Run) -> dict[str, Any]:
    matrix, steps = run.progress.matrix, run.journal.steps()
    if not matrix and not (steps and run.config.parts[run.progress.part].data.watch):
        raise RunError(f"{run.path} has not finished a task yet; let it learn on (everlearn learn --resume {run.path})")
    return {
        "method": run.config.learner.method,
        "matrix": matrix,
        **measures(matrix),
        "samples": run.progress.samples_seen,
        "steps": len(steps),
    }


def _curve(run: Run) -> list[float]:
    matrix = run.progress.matrix  # of the tasks learned so far
    rows = [[value for value in row[: i + 1] if value is not None] for i, row in enumerate(matrix)]
    return [sum(row) / max(1, len(row)) for row in rows]


def _counts(learner: Learner) -> list[int]:
    counts: list[int] = learner.memory.counts.tolist()
    return counts + [0] * (len(learner.classes.codes) - len(counts))
