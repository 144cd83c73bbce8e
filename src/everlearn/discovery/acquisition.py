"""Which candidates to measure next: expected improvement, and batches that do not ask the same thing twice.

Log expected improvement in a form that does not underflow: Ament et al. 2023, *Unexpected Improvements to Expected
Improvement for Bayesian Optimization* (arXiv 2310.20708). Batches: Ginsbourger et al. 2010, the Kriging believer. What
tells most of the pool: Cohn, Ghahramani & Jordan 1996, *Active Learning with Statistical Models*, JAIR 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr  # type: ignore[import-untyped]
from scipy.stats import norm, rankdata  # type: ignore[import-untyped]

from everlearn.discovery.ensemble import Ensemble
from everlearn.discovery.features import Array, Rows
from everlearn.discovery.surrogate import Surrogate

SHORTLIST = 200  # candidates among which a batch is chosen
SAMPLE = 400  # candidates that stand for the pool where one is chosen for what it tells of the others


def normal_scores(values: Array) -> Array:
    """Values replaced by the normal quantile of their rank, so that outliers and skew do not rule the surrogate.

    Examples
    --------
    >>> normal_scores(np.array([1.0, 5.0, 1000.0])).round(2)
    array([-0.97,  0.  ,  0.97])
    """
    return np.asarray(norm.ppf((rankdata(values) - 0.5) / len(values)))


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """log E[max(z − best, 0)] of z ~ N(mean, deviation²).

    Examples
    --------
    >>> log_expected_improvement(np.array([0.0, -50.0]), np.array([1.0, 1.0]), 0.0).round(2).tolist()
    [-0.92, -1258.74]
    """
    u = (mean - best) / deviation
    near = np.maximum(u, -1.0)
    far = np.minimum(u, -1.0)
    log_near = np.log(norm.pdf(near) + near * norm.cdf(near))
    log_density = -far * far / 2 - 0.5 * np.log(2 * np.pi)
    ratio = np.exp(log_ndtr(far) - log_density)  # Φ/φ: 1 + u Φ/φ → 1/u² for u → −∞
    tail = np.where(far < -1e3, 1 / far**2, 1 + far * ratio)
    return np.log(deviation) + np.where(u > -1, log_near, log_density + np.log(np.maximum(tail, 1e-300)))


def border(mean: Array, deviation: Array, z: Array, wanted: float) -> float:
    """The score above which ``wanted`` candidates are expected: measured ones, and open ones by their probability.

    Parameters
    ----------
    mean, deviation : ndarray
        Of the open candidates' scores.
    z : ndarray
        Scores of the measured ones.
    wanted : float
        How many are looked for.

    Examples
    --------
    >>> border(np.zeros(0), np.ones(0), np.array([0.0, 1.0, 2.0]), 1.5).__round__(1)
    1.0
    >>> border(np.zeros(1000), np.ones(1000), np.zeros(0), 25.0).__round__(2)
    1.96
    """
    low, high = -10.0, 10.0 + max(0.0, float(np.max(z, initial=0.0)))
    for _ in range(50):
        level = (low + high) / 2
        above = norm.sf((level - mean) / deviation).sum() + (z > level).sum()
        low, high = (level, high) if above > wanted else (low, level)
    return (low + high) / 2


def believer_batch(
    surrogate: Surrogate | Ensemble, rows: Rows, bonus: Array, level: float, n: int, pending: Sequence[int] = ()
) -> list[int]:
    """n rows, best first; each next one is chosen as if those before it had come out as expected.

    Parameters
    ----------
    surrogate : Surrogate
        Fitted.
    rows : ndarray
        Pool rows that may be chosen.
    bonus : ndarray
        Added to each row's log expected improvement: log probability of keeping the limits, minus log cost.
    level : float
        z to improve on.
    n : int
        Batch size.
    pending : sequence of int
        Pool rows that are being measured; they too count as if they had come out as expected.
    """
    mean, deviation = surrogate.predict(rows)
    score = log_expected_improvement(mean, deviation, level) + bonus
    order = np.argsort(-score, kind="stable")[: max(SHORTLIST, n)]
    rows, mean, bonus = rows[order], mean[order], bonus[order]
    covariance = _covariance(surrogate, rows, pending)
    chosen: list[int] = []
    free = np.ones(len(rows), dtype=bool)
    for _ in range(min(n, len(rows))):
        spread = np.sqrt(np.diag(covariance).clip(min=1e-9))
        score = np.where(free, log_expected_improvement(mean, spread, level) + bonus, -np.inf)
        i = int(np.argmax(score))
        free[i] = False
        chosen.append(int(rows[i]))
        covariance = _told(covariance, i, surrogate.noise)
    return chosen


def telling_row(
    surrogate: Surrogate | Ensemble, rows: Rows, bonus: Array, pending: Sequence[int], rng: np.random.Generator
) -> int:
    """The row whose measurement makes the others most certain: largest Σⱼ cov(i, j)² / (var(i) + noise), and bonus.

    Parameters are those of `believer_batch`; ``rng`` draws the candidates that stand for the pool.
    """
    places = rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False)
    covariance = _covariance(surrogate, rows[places], pending)
    gain = (covariance * covariance).sum(1) / (np.diag(covariance) + surrogate.noise)
    return int(rows[places[int(np.argmax(np.log(gain.clip(min=1e-12)) + bonus[places]))]])


def _covariance(surrogate: Surrogate | Ensemble, rows: Rows, pending: Sequence[int]) -> Array:
    """The covariance of rows once the pending ones are measured."""
    covariance = surrogate.covariance(np.append(rows, np.asarray(pending, dtype=np.int64)))
    for i in range(len(rows), len(covariance)):
        covariance = _told(covariance, i, surrogate.noise)
    return covariance[: len(rows), : len(rows)]


def _told(covariance: Array, i: int, noise: float) -> Array:
    """The covariance once the i-th is measured."""
    return np.asarray(covariance - np.outer(covariance[:, i], covariance[i]) / (covariance[i, i] + noise))


def spread_batch(surrogate: Surrogate, rows: Rows, tried: list[int], n: int, seed: int) -> list[int]:
    """n rows far from each other and from those tried, for when nothing can be learned yet."""
    rng = np.random.default_rng(seed)
    rows = rows if len(rows) <= 4000 else np.sort(rng.choice(rows, 4000, replace=False))
    near = surrogate.similarity(rows, tried).max(1) if tried else np.zeros(len(rows))
    chosen: list[int] = []
    for step in range(min(n, len(rows))):
        i = int(rng.integers(len(rows))) if step == 0 and not tried else int(np.argmin(near))
        chosen.append(int(rows[i]))
        near = np.maximum(near, surrogate.similarity(rows, [int(rows[i])])[:, 0])
        near[i] = np.inf
    return chosen
