"""How well a run's learner knows a source, by class names."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.data import load
from everlearn.errors import DataError
from everlearn.runs.build import build_source
from everlearn.runs.run import Run


def evaluate_source(run: Run, spec: str, chunk: int = 1000) -> dict[str, Any]:
    """Accuracy over all and by class; classes that the run never learned count as wrong and are named.

    Parameters
    ----------
    run : Run
        With a checkpoint.
    spec : str
        Any source. Its held-out samples are taken; what the run made of its own source stays held out here.
    chunk : int
        Samples read at once.
    """
    learner, channels_size = run.learner(), run.shape
    source = build_source(run.config, spec)
    if source.shape != channels_size:
        raise DataError(
            f"{spec} is read as {source.shape}; the run learned pictures of {channels_size}; set --size and --channels"
        )
    names = run.journal.class_names()
    indices = np.flatnonzero(source.test)
    right = np.zeros(len(source.class_names), dtype=np.int64)
    total = np.zeros_like(right)
    read = 0
    for start in range(0, len(indices), chunk):
        inputs, labels, _ = load(source, indices[start : start + chunk])
        read += len(labels)
        if not len(labels):
            continue
        predicted = [names[code] for code in learner.predict(inputs).labels.tolist()]
        for label, name in zip(labels.tolist(), predicted):
            total[label] += 1
            right[label] += source.class_names[label] == name
    if read == 0:
        raise DataError(f"no held-out sample of {spec} could be read")
    learned = {names[code] for code in learner.classes.codes}
    classes = {
        name: {"samples": int(n), "accuracy": float(k / n)} for name, k, n in zip(source.class_names, right, total) if n
    }
    return {
        "run": str(run.path),
        "source": spec,
        "step": learner.step,
        "samples": read,
        "accuracy": float(right.sum() / read),
        "classes": classes,
        "unknown_classes": [name for name in source.class_names if name not in learned],
        "quarantined": len(indices) - read,
    }
