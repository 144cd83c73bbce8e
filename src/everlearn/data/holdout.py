"""Holding samples out for evaluation where the data have no test part of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hold_out(
    labels: NDArray[np.int64],
    share: float,
    *,
    seed: int = 0,
    patients: NDArray[np.str_] | None = None,
    strata: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Choose the held-out samples: a share of each class, at least one of every class of two or more.

    Parameters
    ----------
    labels : array of int64
        ``[N]``.
    share : float
        0 ≤ share < 1.
    seed : int
        The choice depends on the labels, the share and the seed alone.
    patients : array of str, optional
        ``[N]``: all samples of a patient stay on one side, as nearly as that allows; an empty name is a patient of its
        own.
    strata : array of int64, optional
        ``[N]``: within a class, the share is spread evenly over these (sites, tasks).

    Returns
    -------
    array of bool
        ``[N]``: true where held out.

    Examples
    --------
    >>> hold_out(np.array([0] * 10 + [1] * 5), 0.2).nonzero()[0].tolist()
    [7, 8, 14]
    """
    test = np.zeros(len(labels), dtype=bool)
    if share == 0:
        return test
    random = np.random.default_rng(seed)
    if patients is not None:
        return _whole_patients(labels, share, patients, random)
    for code in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == code))
        if strata is not None:
            members = members[np.argsort(strata[members], kind="stable")]
        n = _wanted(len(members), share)
        if n:  # evenly spaced from a random start: every stratum gets its share, to within one
            places = (np.arange(n) + random.random()) * (len(members) / n)
            test[members[places.astype(np.int64)]] = True
    return test


def _wanted(n: int, share: float) -> int:
    return min(max(1, round(n * share)), n - 1)


def _whole_patients(
    labels: NDArray[np.int64], share: float, patients: NDArray[np.str_], random: np.random.Generator
) -> NDArray[np.bool_]:
    """From the rarest class on, draw patients until the class has its share held out; each class keeps one to learn."""
    names = np.where(patients == "", [f"\0{i}" for i in range(len(patients))], patients)
    _, patient = np.unique(names, return_inverse=True)
    order = np.argsort(patient, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(patient[order])) + 1)
    n_classes = int(labels.max()) + 1
    counts = np.bincount(labels, minlength=n_classes)
    held = np.zeros(n_classes, dtype=np.int64)
    taken = np.zeros(len(members), dtype=bool)
    for code in sorted(np.flatnonzero(counts), key=lambda code: counts[code]):
        wanted = _wanted(int(counts[code]), share)
        for p in random.permutation(np.unique(patient[labels == code])):
            own = np.bincount(labels[members[p]], minlength=n_classes)
            spares = bool(np.all((held + own < counts) | (own == 0)))
            fits = held[code] + own[code] <= wanted or held[code] == 0
            if held[code] < wanted and not taken[p] and spares and fits:
                taken[p] = True
                held += own
    return taken[patient]
