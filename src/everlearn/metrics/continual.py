"""Measures of continual learning, all from one accuracy matrix.

``matrix[i][j]`` is the accuracy on task j after task i was learned (0..1), or None where it was not measured, as for
tasks that are still to come. T is the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everlearn.errors import SettingError

Matrix = Sequence[Sequence[float | None]]


def average_accuracy(matrix: Matrix) -> float:
    """Mean over all tasks of the accuracy after the last one.

    Examples
    --------
    >>> average_accuracy([[0.9, None], [0.5, 0.7]])
    0.6
    """
    return _mean(_measured(_rows(matrix)[-1]))


def anytime_accuracy(matrix: Matrix) -> float:
    """Mean over time of the mean accuracy on the tasks learned so far.

    Examples
    --------
    >>> anytime_accuracy([[0.9, None], [0.5, 0.7]])
    0.75
    """
    return _mean([_mean(_measured(row[: i + 1])) for i, row in enumerate(_rows(matrix))])


def forgetting(matrix: Matrix) -> float:
    """Mean over the first T−1 tasks of (best accuracy at any earlier time − final accuracy); 0 for a single task.

    Chaudhry et al. 2018 (arXiv 1801.10112). The mean is over T−1 tasks: the last one cannot have been forgotten yet.

    Examples
    --------
    >>> forgetting([[0.9, None], [0.5, 0.7]])
    0.4
    """
    rows = _rows(matrix)
    lost = []
    for j in range(len(rows) - 1):
        earlier = _measured([row[j] for row in rows[:-1]])
        final = rows[-1][j]
        if earlier and final is not None:
            lost.append(max(earlier) - final)
    return _mean(lost) if lost else 0.0


def backward_transfer(matrix: Matrix) -> float:
    """Mean over the first T−1 tasks of (final accuracy − accuracy just after learning the task); 0 for a single task.

    Lopez-Paz & Ranzato 2017, GEM (arXiv 1706.08840). Below 0 where learning on has harmed what was known.

    Examples
    --------
    >>> backward_transfer([[0.9, None], [0.5, 0.7]])
    -0.4
    """
    rows = _rows(matrix)
    pairs = [(rows[-1][j], rows[j][j]) for j in range(len(rows) - 1) if j < len(rows[0])]
    gains = [final - learned for final, learned in pairs if final is not None and learned is not None]
    return _mean(gains) if gains else 0.0


def forward_transfer(matrix: Matrix, baseline: float | Sequence[float] = 0.0) -> float:
    """Mean over tasks 2 … T of (accuracy on the task just before learning it − baseline); 0 for a single task.

    Lopez-Paz & Ranzato 2017, GEM (arXiv 1706.08840). It needs rows that measure tasks still to come, as streams of
    domains give; a class that was never seen is never predicted, so that class-incremental streams give −baseline.

    Parameters
    ----------
    matrix : sequence of rows
    baseline : float or sequence of float
        Accuracy of an untrained model on every task, or on each of the T.

    Raises
    ------
    SettingError
        If no task was measured before it was learned, or there is not one baseline for each task.

    Examples
    --------
    >>> forward_transfer([[0.9, 0.3], [0.8, 0.7]], baseline=0.1)
    0.2
    """
    rows = _rows(matrix)
    base = [float(baseline)] * len(rows[0]) if isinstance(baseline, int | float) else list(baseline)
    if len(base) != len(rows[0]):
        raise SettingError(f"{len(base)} baselines for {len(rows[0])} tasks; expected one for each, or one for all")
    if len(rows) == 1:
        return 0.0
    gains = []
    for j in range(1, min(len(rows), len(base))):
        before = rows[j - 1][j]
        if before is not None:
            gains.append(before - base[j])
    return _mean(gains)


def worst_case_accuracy(matrix: Matrix) -> float:
    """Final accuracy on the last task, and for each earlier one the least it ever had after the task that taught it.

    WC-ACC = 1/T · A(last) + (1 − 1/T) · mean over earlier tasks of their minimum: De Lange, van de Ven, Tuytelaars
    2023, *Continual evaluation for lifelong learning* (ICLR 2023, arXiv 2205.13452), over the times the matrix has.

    Examples
    --------
    >>> worst_case_accuracy([[0.9, None, None], [0.2, 0.8, None], [0.6, 0.5, 0.7]])
    0.466666666667
    """
    rows = _rows(matrix)
    lows = []
    for j in range(len(rows) - 1):
        later = _measured([row[j] for row in rows[j + 1 :]])
        if later:
            lows.append(min(later))
    last = rows[-1][min(len(rows), len(rows[0])) - 1]
    if last is None:
        raise SettingError("the last task was not measured after it was learned; expected its accuracy in the last row")
    return _mean([last, *lows])


def measures(matrix: Matrix, baseline: float | Sequence[float] = 0.0) -> dict[str, float | None]:
    """All of the measures by their names; None for one that the matrix does not give.

    Parameters
    ----------
    matrix : sequence of rows
        Of no task yet, or of some.
    baseline : float or sequence of float
        As for `forward_transfer`.

    Examples
    --------
    >>> found = measures([[0.9, None], [0.5, 0.7]])
    >>> found["average_accuracy"], found["backward_transfer"], found["forward_transfer"]
    (0.6, -0.4, None)
    """
    found: dict[str, float | None] = {}
    for measure in (average_accuracy, anytime_accuracy, forgetting, backward_transfer, worst_case_accuracy):
        found[measure.__name__] = _if_given(measure, matrix)
    before = len(matrix) > 1 and any(matrix[j - 1][j] is not None for j in range(1, min(len(matrix), len(matrix[0]))))
    found["forward_transfer"] = forward_transfer(matrix, baseline) if before else None
    return found


def _if_given(measure: Callable[[Matrix], float], matrix: Matrix) -> float | None:
    try:
        return measure(matrix)
    except SettingError:
        return None


def _rows(matrix: Matrix) -> list[list[float | None]]:
    rows = [list(row) for row in matrix]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        lengths = [len(row) for row in rows]
        raise SettingError(f"an accuracy matrix has rows of lengths {lengths}; expected one row or more, all alike")
    return rows


def _measured(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise SettingError("an accuracy matrix has no measured value where one is needed")
    return round(sum(values) / len(values), 12)
