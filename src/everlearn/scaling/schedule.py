"""Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): a run can go on from the end of its stable part."""

from __future__ import annotations

from everlearn.scaling.settings import Schedule


def rate(step: int, steps: int, schedule: Schedule) -> float:
    """Share of the highest learning rate in a step (from 0): up, level, then down as 1 − √ (Hägele et al. 2024).

    Examples
    --------
    >>> [round(rate(s, 8, Schedule(warmup=2, decay=4)), 2) for s in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.29, 0.13]
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    decayed = step - (steps - schedule.decay)
    if decayed <= 0 or not schedule.decay:
        return 1.0
    return schedule.floor + (1 - schedule.floor) * (1 - (decayed / schedule.decay) ** 0.5)
