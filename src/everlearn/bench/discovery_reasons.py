"""Do the reasons hold? Taking out what is named against taking out as much at random, over many proposals."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.discovery import Measurement
from everlearn.discovery.reasons import explain
from everlearn.discovery.search import Search

KNOWN = 60  # random measurements that the explained batch is proposed from


def reason_checks(search: Search, y: np.ndarray, batch: int, seed: int) -> list[dict[str, Any]]:
    """The checks of one batch's reasons.

    Parameters
    ----------
    search : Search
    y : ndarray
        ``[N]`` values.
    batch, seed : int

    Returns
    -------
    list of dict
        what (``"parts"`` or ``"cases"``), named and random (the change of the expected value, in normal scores, when
        what is named is taken out, and the mean over as much at random) and the verdict; one for each proposal that
        has something to take out.
    """
    rows = np.random.default_rng([seed, 13]).choice(len(y), min(KNOWN, len(y) // 2), replace=False)
    names = search.pool.candidates
    search.learn([Measurement(names[i].name, (float(y[i]),)) for i in rows])
    found = []
    for reason in explain(search, search.propose(batch)):
        for what, check in (("parts", reason.parts_check), ("cases", reason.cases_check)):
            if check is not None:
                at_random = float(np.mean(check.random))
                found.append({"what": what, "named": check.named, "random": at_random, "verdict": check.verdict})
    return found
