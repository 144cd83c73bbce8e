"""Can this map be trusted? Its own figures beside those of random maps of the same power spectrum, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.metrics.faithfulness import deletion_auc, insertion_auc, random_maps


@dataclass(frozen=True)
class Faithfulness:
    """What was measured of one map.

    Parameters
    ----------
    insertion, deletion : float
        Areas under the curve (`everlearn.metrics.faithfulness`).
    random_insertions, random_deletions : tuple of float
        The same of each random map of the same power spectrum.
    verdict : {"supported", "weak", "not supported"}
        What these figures allow to be said (`verdict`); a constant map is not supported.
    """

    insertion: float
    deletion: float
    random_insertions: tuple[float, ...]
    random_deletions: tuple[float, ...]
    verdict: str

    @property
    def random_insertion(self) -> float:
        """Mean over the random maps."""
        return sum(self.random_insertions) / len(self.random_insertions)

    @property
    def random_deletion(self) -> float:
        """Mean over the random maps."""
        return sum(self.random_deletions) / len(self.random_deletions)


def verdict(score: float, random_scores: Sequence[float]) -> str:
    """What a map's insertion − deletion allows to be said, given that of R ≥ 2 random maps.

    "supported": above the one-sided 95 % prediction interval of one more random map,
    mean + t(0.95, R − 1) · sd · √(1 + 1/R); "weak": above their mean; else "not supported".

    Examples
    --------
    >>> verdict(0.9, [0.1, 0.2, 0.15]), verdict(0.18, [0.1, 0.2, 0.15]), verdict(0.1, [0.1, 0.2, 0.15])
    ('supported', 'weak', 'not supported')
    """
    r = torch.tensor(random_scores, dtype=torch.float64)
    mean, sd = float(r.mean()), float(r.std())
    if score <= mean + 1e-6:
        return "not supported"
    return "supported" if score > mean + _t95(len(r) - 1) * sd * (1 + 1 / len(r)) ** 0.5 else "weak"


def measure(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    steps: int = 16,
    random: int = 8,
    seed: int = 0,
    kind: str = "auto",
    chunk: int = 64,
) -> list[Faithfulness]:
    """Insertion and deletion of each map and of random maps like it; 2 (steps + 1)(random + 1) forwards each.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    inputs, maps, target : Tensor
        ``[n, C, H, W]`` normalised, ``[n, 1, H, W]`` and ``[n]``.
    steps, kind, chunk
        As for `insertion_auc`.
    random, seed : int
        Random maps, 2 or more, and their seed.

    Raises
    ------
    SettingError
        If random < 2 or the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    >>> found = measure(model, torch.ones(1, 1, 4, 4), torch.rand(1, 1, 4, 4), torch.tensor([1]))
    >>> len(found), len(found[0].random_insertions)
    (1, 8)
    """
    if random < 2:
        raise SettingError(f"random is {random}; expected 2 or more random maps to compare with")
    generator = torch.Generator().manual_seed(seed)
    inserted, deleted = [], []
    for j in range(random + 1):
        shown = maps if j == 0 else random_maps(maps, generator)
        inserted.append(insertion_auc(model, inputs, shown, target, steps=steps, kind=kind, chunk=chunk))
        deleted.append(deletion_auc(model, inputs, shown, target, steps=steps, kind=kind, chunk=chunk))
    found = []
    for heatmap, ins, dele in zip(maps, torch.stack(inserted, 1).tolist(), torch.stack(deleted, 1).tolist()):
        scores = [a - b for a, b in zip(ins, dele)]
        blank = not bool((heatmap != heatmap.flatten()[0]).any())
        said = "not supported" if blank else verdict(scores[0], scores[1:])
        found.append(Faithfulness(ins[0], dele[0], tuple(ins[1:]), tuple(dele[1:]), said))
    return found


def _t95(freedom: int) -> float:
    """95 % quantile of Student's t."""
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(0.95, freedom))
