"""What chooses the next batch: Everlearn, random choice, a plain BoTorch loop, a greedy random forest.

All see the same features of the same candidates. BoTorch: `SingleTaskGP` as it comes on the standardised descriptors'
principal components, the 200 candidates of largest analytic log expected improvement, and among these a batch by
`qLogExpectedImprovement` and `optimize_acqf_discrete`. Forest: scikit-learn's, 100 trees on all features, the
candidates it foresees best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from everlearn.discovery import Measurement
from everlearn.discovery.needs import need
from everlearn.discovery.search import Search

SHORTLIST, COMPONENTS, _MC, _STEPS = 200, 32, 64, 50


@dataclass
class View:
    """What a strategy sees: candidates, and the values of those it measured.

    Attributes
    ----------
    search : Search
    y : ndarray
        ``[N]``; a strategy looks only at the rows it measured.
    sign : float
        1 where large values are wanted, −1 where small ones are.
    batch, seed : int
    rng : numpy.random.Generator
    """

    search: Search
    y: np.ndarray
    sign: float
    batch: int
    seed: int
    rng: np.random.Generator

    def open(self, known: list[int]) -> np.ndarray:
        """Rows not measured yet."""
        free = np.ones(len(self.y), dtype=bool)
        free[known] = False
        return np.flatnonzero(free)

    @cached_property
    def table(self) -> np.ndarray:
        """``[N, D]``: all features, for forests; kept with the search, which outlives a seed."""
        return _kept(self.search, "forest", lambda: self.search.features.table().astype(np.float32))

    @cached_property
    def components(self) -> torch.Tensor:
        """``[N, 32]``: principal components of the numbers that describe a candidate, each from 0 to 1."""
        return torch.as_tensor(_kept(self.search, "components", lambda: _components(self.search)))


def everlearn(view: View, known: list[int]) -> list[int]:
    """The class behind ``everlearn discover``."""
    names = view.search.pool.candidates
    view.search.learn([Measurement(names[i].name, (float(view.y[i]),)) for i in known])
    return [each.row for each in view.search.propose(view.batch)]


def random(view: View, known: list[int]) -> list[int]:
    """Any that is not measured yet."""
    rows = view.open(known)
    return [int(i) for i in view.rng.choice(rows, min(view.batch, len(rows)), replace=False)]


def forest(view: View, known: list[int]) -> list[int]:
    """The candidates that a random forest foresees best."""
    from sklearn.ensemble import RandomForestRegressor

    rows = view.open(known)
    model = RandomForestRegressor(100, max_features=1 / 3, random_state=view.seed, n_jobs=1)
    model.fit(view.table[known], view.sign * view.y[known])
    return [int(i) for i in rows[np.argsort(-model.predict(view.table[rows]), kind="stable")[: view.batch]]]


def botorch(view: View, known: list[int]) -> list[int]:
    """A loop of BoTorch's own parts."""
    acquisitions, models, optim = need("botorch.acquisition"), need("botorch.models"), need("botorch.optim")
    torch.manual_seed(view.seed)
    x, rows = view.components, view.open(known)
    y = torch.as_tensor(view.sign * view.y[known])[:, None]
    model = models.SingleTaskGP(x[known], y)
    likelihood = need("gpytorch.mlls").ExactMarginalLogLikelihood(model.likelihood, model)
    need("botorch.fit").fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _STEPS}})
    analytic = acquisitions.LogExpectedImprovement(model, float(y.max()))
    with torch.no_grad():
        score = torch.cat([analytic(part[:, None]) for part in x[rows].split(500)])
    short = rows[torch.argsort(-score, stable=True)[:SHORTLIST].numpy()]
    sampler = need("botorch.sampling").SobolQMCNormalSampler(torch.Size([_MC]), seed=view.seed)
    acquisition = acquisitions.qLogExpectedImprovement(model, float(y.max()), sampler)
    q = min(view.batch, len(short))
    chosen, _ = optim.optimize_acqf_discrete(acquisition, q=q, choices=x[short], max_batch_size=SHORTLIST, unique=True)
    found: list[int] = []
    for point in chosen:  # several candidates may share a point: each is taken once
        same = [int(i) for i in short[(x[short] == point).all(1).numpy()] if int(i) not in found]
        found += same[:1]
    return found or random(view, known)


STRATEGIES: dict[str, Callable[[View, list[int]], list[int]]] = {
    "random": random,
    "forest": forest,
    "botorch": botorch,
    "everlearn": everlearn,
}


def _components(search: Search) -> np.ndarray:
    from sklearn.decomposition import PCA

    dense = np.hstack([block.values for block in search.features.blocks if block.kind == "matern"])
    found = PCA(min(COMPONENTS, *dense.shape), random_state=0).fit_transform(dense)
    return np.asarray((found - found.min(0)) / np.maximum(np.ptp(found, 0), 1e-12))


_TABLES: dict[tuple[int, str], tuple[Search, Any]] = {}


def _kept(search: Search, what: str, make: Callable[[], Any]) -> Any:
    """A table made once for a search; one search at a time, so that memory stays bounded."""
    if (id(search), what) not in _TABLES:
        for key in [key for key, (other, _) in _TABLES.items() if other is not search]:
            del _TABLES[key]
        _TABLES[id(search), what] = (search, make())
    return _TABLES[id(search), what][1]
