"""Orders in which a source is learned: by class, time, site or task, with blurred borders, or shuffled.

Each is decided by the source and the seed alone. Held-out samples are never streamed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everlearn.data.naming import natural_key
from everlearn.data.source import Source
from everlearn.data.streams import Indices, Stream
from everlearn.errors import DataError, SettingError


def class_incremental(source: Source, tasks: int = 5, order: str = "natural", seed: int = 0) -> Stream:
    """Classes come in groups, one group after the other: the usual test of forgetting.

    Parameters
    ----------
    source : Source
        Of at least as many classes as tasks.
    tasks : int
        Groups of equal size; where that does not work out, the first ones have one class more.
    order : {"natural", "seeded"}
        Of the classes: as the source names them, or shuffled with the seed.
    seed : int
        Of the shuffles, of classes and of samples within a task.

    Returns
    -------
    Stream
        With borders; a task's test samples are those of its classes.

    Raises
    ------
    SettingError
        If there are fewer classes than tasks, or the order is unknown.

    Examples
    --------
    >>> from everlearn.data import class_incremental, open_source
    >>> stream = class_incremental(open_source("builtin:digits"), tasks=3)
    >>> [sorted(set(stream.labels(task).tolist())) for task in stream.tasks]
    [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    """
    groups = _class_groups(source, tasks, order, seed)
    parts = [_shuffle(_train(source, np.isin(source.labels, group)), seed, t) for t, group in enumerate(groups)]
    return Stream(source, parts, name=f"{source.name}, {tasks} tasks by class")


def by_time(source: Source, tasks: int = 5) -> Stream:
    """Samples come as time goes by; the tasks are spans of about equally many samples.

    Within a task time runs on (nothing is shuffled; equal times keep the source's order), samples of one time are never
    parted, and the test samples of a task are those of its span.

    Parameters
    ----------
    source : Source
        With times.
    tasks : int
        Number of spans.

    Raises
    ------
    DataError
        If the source has no times.
    SettingError
        If there are too few different times for so many tasks.
    """
    times = _given(source, source.times, "times")
    train = _train(source)
    train = train[np.argsort(times[train], kind="stable")]
    if tasks < 1:
        raise SettingError(f"tasks is {tasks}; expected 1 or more")
    cuts = times[train][[len(train) * t // tasks for t in range(1, tasks)]]  # the first time of each task but the first
    task_of = np.searchsorted(cuts, times, side="right")
    if len(np.unique(task_of[train])) < tasks:
        distinct = len(np.unique(times[train]))
        raise SettingError(
            f"{source.name} does not part into {tasks} spans of time ({distinct} times): ask for fewer tasks"
        )
    return Stream(
        source,
        [train[task_of[train] == t] for t in range(tasks)],
        name=f"{source.name}, {tasks} tasks by time",
        held_out=[np.flatnonzero((task_of == t) & source.test) for t in range(tasks)],
    )


def by_site(source: Source, order: Sequence[str] | None = None, seed: int = 0) -> Stream:
    """One task for each site (hospital, machine, camera), all classes in each: domain-incremental.

    Parameters
    ----------
    source : Source
        With sites.
    order : sequence of str, optional
        The sites to learn and their order; by default all with samples to learn, in natural order.
    seed : int
        Of the shuffle within each task.

    Raises
    ------
    DataError
        If the source has no sites.
    SettingError
        If a site of the order has no sample to learn, or comes twice.
    """
    sites = _given(source, source.sites, "sites")
    known = sorted({str(site) for site in sites[~source.test]}, key=natural_key)
    order = known if order is None else list(order)
    for site in order:
        if site not in known or order.count(site) > 1:
            raise SettingError(f"order has {site!r}; expected each once of the sites {', '.join(known)}")
    return _by_value(source, sites, np.array(order), seed, f"{source.name}, {len(order)} sites")


def by_task(source: Source, seed: int = 0) -> Stream:
    """One task for each number in the source's task column, from the lowest on, shuffled within.

    Raises
    ------
    DataError
        If the source has no tasks.
    """
    numbers = _given(source, source.tasks, "tasks")
    known = np.unique(numbers[~source.test])
    return _by_value(source, numbers, known, seed, f"{source.name}, {len(known)} tasks of its own")


def blurred(source: Source, tasks: int = 5, blur: float = 0.1, seed: int = 0, order: str = "natural") -> Stream:
    r"""Groups of classes that fade into each other; no learner is told where a task ends.

    Sample i of a class-incremental stream, the r-th of the n in its task t, is learned in the order of

    .. math:: t + (r + 1/2)/n + \beta z_i, \qquad z_i \sim N(0, 1).

    At a distance of d tasks behind a border :math:`\Phi(-d/\beta)` of the samples still come from the group before it,
    and as many ahead of it already from the group that follows: at \beta = 0.1 the change takes about 0.4 of a task's
    length, at 0 it is sharp, and from about 1 on everything is mixed.

    Parameters
    ----------
    source : Source
        Of at least as many classes as tasks.
    tasks : int
        Groups of classes.
    blur : float
        \beta, 0 or more: the standard deviation in lengths of a task.
    seed : int
        Of shuffles and noise.
    order : {"natural", "seeded"}
        Of the classes.

    Returns
    -------
    Stream
        Without borders. Its tasks are stretches as long as the groups, to evaluate behind each; the test samples of
        task t are those of the t-th group of classes.

    Raises
    ------
    SettingError
        If blur is negative, or tasks and classes do not fit.

    Examples
    --------
    >>> from everlearn.data import blurred, open_source
    >>> stream = blurred(open_source("builtin:digits"), tasks=5, blur=0.1)
    >>> next(stream.batches(10)).task is None, len(stream.tests())
    (True, 5)
    """
    if not 0 <= blur < np.inf:
        raise SettingError(f"blur is {blur}; expected 0 or more lengths of a task")
    sharp = class_incremental(source, tasks, order, seed)
    place = np.concatenate([t + (np.arange(len(task)) + 0.5) / len(task) for t, task in enumerate(sharp.tasks)])
    noise = np.random.default_rng([seed, 2]).standard_normal(len(place))
    mixed = np.concatenate(sharp.tasks)[np.argsort(place + blur * noise, kind="stable")]
    parts = np.split(mixed, np.cumsum([len(task) for task in sharp.tasks])[:-1])
    name = f"{source.name}, {tasks} tasks by class, blurred by {blur:g}"
    return Stream(source, parts, borders=False, name=name, held_out=sharp.tests())


def shuffled(source: Source, seed: int = 0) -> Stream:
    """One task of all samples, shuffled; the whole test part belongs to it."""
    held_out = [np.flatnonzero(source.test)]
    return Stream(source, [_shuffle(_train(source), seed, 0)], name=f"{source.name}, shuffled", held_out=held_out)


def _by_value(source: Source, values: NDArray[np.generic], order: NDArray[np.generic], seed: int, name: str) -> Stream:
    return Stream(
        source,
        [_shuffle(_train(source, values == value), seed, t) for t, value in enumerate(order)],
        name=name,
        held_out=[np.flatnonzero((values == value) & source.test) for value in order],
    )


def _class_groups(source: Source, tasks: int, order: str, seed: int) -> list[Indices]:
    if order not in ("natural", "seeded"):
        raise SettingError(f"order is {order!r}; expected 'natural' or 'seeded'")
    present = np.unique(source.labels[_train(source)])
    if not 1 <= tasks <= len(present):
        n = len(present)
        raise SettingError(f"tasks is {tasks}; {source.name} has {n} classes to learn: expected 1 to {n} tasks")
    if order == "seeded":
        present = np.random.default_rng([seed, 1]).permutation(present)
    return np.array_split(present, tasks)


def _given(source: Source, values: NDArray | None, what: str) -> NDArray:
    if values is None:
        raise DataError(f"{source.name} has no {what}; expected a manifest with that column")
    return values


def _train(source: Source, among: NDArray[np.bool_] | None = None) -> Indices:
    train = np.flatnonzero(~source.test if among is None else among & ~source.test)
    if not len(train):
        raise DataError(f"{source.name}: every sample is held out; none is left to learn")
    return train


def _shuffle(indices: Indices, seed: int, task: int) -> Indices:
    return np.random.default_rng([seed, 0, task]).permutation(indices)
