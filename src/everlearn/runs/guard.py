"""The guard: cases kept from learning, on which every new version is checked before it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.data import Source, load
from everlearn.errors import EverlearnError
from everlearn.learners import Learner
from everlearn.runs.build import build_source, build_stream
from everlearn.runs.reviews import Reviews, picture_of
from everlearn.runs.run import Run

LARGEST = 300
_ENOUGH = 30  # cases from which a temperature can be fitted


@dataclass(frozen=True)
class Check:
    """How a version does on the guard's cases: how many, the share it has right, by class, and each case's outcome.

    ``temperature`` is what logits are divided by so that probabilities fit how often they are right; 1 where there are
    too few cases to tell.
    """

    n: int
    accuracy: float | None
    by_class: dict[str, float]
    temperature: float
    right: dict[str, bool]

    def against(self, before: Check) -> tuple[int, int]:
        """Cases that both met, and how many fewer of them this version has right."""
        both = self.right.keys() & before.right.keys()
        return len(both), sum(before.right[case] for case in both) - sum(self.right[case] for case in both)


class Guard:
    """Half of what the run held out, and every fifth confirmation of the experts; of each the last 300 at most."""

    def __init__(self, run: Run, reviews: Reviews) -> None:
        self.run, self.reviews = run, reviews
        self.names: list[str] = []
        self.inputs = torch.zeros(0, *run.shape, dtype=torch.uint8)
        self.codes = torch.zeros(0, dtype=torch.int64)
        self._held = 0  # how many of them are held-out samples; behind them come reviews
        try:
            self._add_held_out()
        except EverlearnError as error:
            run.journal.event(run.progress.step, "warning", {"text": f"held-out samples cannot be read: {error}"})
            run.journal.commit()

    def check(self, learner: Learner) -> Check:
        """Measure a learner."""
        self._take_reviews()
        known = torch.tensor([int(code) in learner.classes.codes for code in self.codes], dtype=torch.bool)
        inputs, codes = self.inputs[known], self.codes[known]
        names = [name for name, k in zip(self.names, known.tolist()) if k]
        if not len(codes):
            return Check(0, None, {}, 1.0, {})
        prediction = learner.predict(inputs)
        hit = (prediction.labels.cpu() == codes).tolist()
        class_names = self.run.journal.class_names()
        by_class = {
            class_names[c]: float(np.mean([h for h, code in zip(hit, codes.tolist()) if code == c]))
            for c in sorted(set(codes.tolist()))
        }
        targets = torch.tensor([learner.classes.codes.index(c) for c in codes.tolist()])
        temperature = fit_temperature(prediction.probabilities.cpu().clamp(min=1e-12).log(), targets)
        return Check(len(hit), float(np.mean(hit)), by_class, temperature, dict(zip(names, hit)))

    def _add_held_out(self) -> None:
        source, codes, indices = held_out(self.run)
        mine, _ = split(indices, self.run.config.seed)
        inputs, labels, kept = load(source, mine)
        self.inputs = torch.cat([self.inputs, inputs])
        self.codes = torch.cat(
            [self.codes, torch.tensor([codes[label] for label in labels.tolist()], dtype=torch.int64)]
        )
        self.names += [f"sample {i}" for i in kept.tolist()]
        self._held = len(self.names)

    def _take_reviews(self) -> None:
        """Bring the reviews up to date: the newest that were kept for checking and not withdrawn since."""
        rows = self.reviews.rows(
            "SELECT number FROM reviews WHERE status = 'check' ORDER BY number DESC LIMIT ?", LARGEST
        )
        numbers = sorted(int(row["number"]) for row in rows)
        have = {name: place for place, name in enumerate(self.names)}
        stay = [*range(self._held), *(have[f"review {n}"] for n in numbers if f"review {n}" in have)]
        new = [self.reviews.get(n) for n in numbers if f"review {n}" not in have]
        if len(stay) == len(self.names) and not new:
            return
        self.names = [self.names[place] for place in stay] + [f"review {row['number']}" for row in new if row]
        self.inputs = torch.cat([self.inputs[stay], *(torch.from_numpy(picture_of(row))[None] for row in new if row)])
        self.codes = torch.cat([self.codes[stay], torch.tensor([row["code"] for row in new if row], dtype=torch.int64)])


def held_out(run: Run) -> tuple[Source, list[int], NDArray[np.int64]]:
    """The run's source, the codes of its classes, and which of its samples are held out."""
    source = build_source(run.config, shape=run.shape)
    stream = run.number(build_stream(run.config, source))
    run.journal.commit()
    codes = [int(code) for code in stream.codes] if stream.codes is not None else []
    return source, codes, np.unique(np.concatenate(stream.tests()))


def split(indices: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The guard's samples, and those left for people to look at; no sample is both, and both are always the same.

    Examples
    --------
    >>> guard, rest = split(np.arange(10), seed=0)
    >>> len(guard), len(rest), sorted([*guard.tolist(), *rest.tolist()]) == list(range(10))
    (5, 5, True)
    """
    order = np.random.default_rng(seed).permutation(indices)
    n = min(LARGEST, len(order) // 2)
    return np.sort(order[:n]), np.sort(order[n:])


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature of least cross-entropy, of 61 between 1/4 and 8 (Guo et al. 2017, arXiv 1706.04599).

    Examples
    --------
    >>> sure = torch.tensor([[9.0, 0.0]] * 40)
    >>> fit_temperature(sure, torch.tensor([0] * 30 + [1] * 10)) > 4
    True
    """
    if len(targets) < _ENOUGH:
        return 1.0
    candidates = torch.logspace(-2, 3, 61, base=2.0)
    losses = torch.stack([torch.nn.functional.cross_entropy(logits / t, targets) for t in candidates])
    return float(candidates[losses.argmin()])
