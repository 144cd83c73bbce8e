"""How well a run's learner knows a source, by class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from everlearn.data import Source, load
from everlearn.errors import DataError
from everlearn.metrics.calibration import calibration_error
from everlearn.runs.build import build_source
from everlearn.runs.run import Run


def evaluate_source(run: Run, spec: str, chunk: int = 1000) -> dict[str, Any]:
    """Accuracy over all and by class; classes that the run never learned count as wrong and are named.

    Parameters
    ----------
    run : Run
        With a checkpoint.
    spec : str
        Any source, read in the size of the run's pictures. Of a source that the run learned from, what was held out
        there is taken; of another one its test part, or all of it where it has none.
    chunk : int
        Samples read at once.

    Returns
    -------
    dict
        run, source, step, part (which samples were taken), samples, accuracy, calibration_error (0 to 1), classes,
        unknown_classes, quarantined.
    """
    learner = run.learner()
    source, indices, part = _taken(run, spec)
    names = run.journal.class_names()
    right = np.zeros(len(source.class_names), dtype=np.int64)
    total = np.zeros_like(right)
    probabilities: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    read = 0
    for start in range(0, len(indices), chunk):
        inputs, labels, _ = load(source, indices[start : start + chunk])
        read += len(labels)
        if not len(labels):
            continue
        said = learner.predict(inputs)
        column = {names[code]: i for i, code in enumerate(said.codes)}
        targets.append(torch.tensor([column.get(source.class_names[label], -1) for label in labels.tolist()]))
        probabilities.append(said.probabilities.float().cpu())
        hit = (probabilities[-1].argmax(1) == targets[-1]).numpy()
        total += np.bincount(labels, minlength=len(total))
        right += np.bincount(labels[hit], minlength=len(right))
    if read == 0:
        raise DataError(f"no sample of {spec} could be read ({part})")
    learned = {names[code] for code in learner.classes.codes}
    classes = {
        name: {"samples": int(n), "accuracy": float(k / n)} for name, k, n in zip(source.class_names, right, total) if n
    }
    return {
        "run": str(run.path),
        "source": spec,
        "step": learner.step,
        "part": part,
        "samples": read,
        "accuracy": float(right.sum() / read),
        "calibration_error": calibration_error(torch.cat(probabilities), torch.cat(targets)),
        "classes": classes,
        "unknown_classes": [name for name in source.class_names if name not in learned],
        "quarantined": len(indices) - read,
    }


def same_source(one: str, other: str) -> bool:
    """Whether two names are of one source: alike, or paths of one file or folder.

    Examples
    --------
    >>> same_source("builtin:digits", "builtin:digits"), same_source("a/../b", "b"), same_source("a", "b")
    (True, True, False)
    """
    return one == other or (":" not in one + other and Path(one).resolve() == Path(other).resolve())


def _taken(run: Run, spec: str) -> tuple[Source, NDArray[np.int64], str]:
    """The source, the samples to evaluate on, and in words which they are."""
    for part in run.config.parts:
        if same_source(part.data.source, spec) and not part.data.watch:
            source = build_source(run.config, shape=run.shape, part=part.data)
            return source, np.flatnonzero(source.test), "held out when the run learned from it"
    source = build_source(run.config, spec, shape=run.shape, holdout=0.0)
    if source.test.any():
        return source, np.flatnonzero(source.test), "its test part"
    return source, np.arange(len(source)), "all of it"
