"""The search: from what is known to what to measure next, with expected value and uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]

from everlearn.discovery.acquisition import believer_batch, border, normal_scores, spread_batch, telling_row
from everlearn.discovery.config import CampaignConfig
from everlearn.discovery.ensemble import Ensemble, forest_table
from everlearn.discovery.features import Array, Features, Rows
from everlearn.discovery.featurisers import featuriser_of
from everlearn.discovery.limits import Limits
from everlearn.discovery.pareto import undominated, weighed
from everlearn.discovery.pool import Measurement, Pool
from everlearn.discovery.proposal import Outlook, Proposal
from everlearn.discovery.scores import Scores
from everlearn.discovery.surrogate import Surrogate

_FIT = 256  # measured rows that the surrogate's parameters are fitted on; all are learned from
_FEWEST = 3  # distinct candidates with distinct values, below which nothing can be learned
_EVERY = 8  # measurements, of which one is chosen for what it tells of the pool, not for its own value
_INTERVAL = float(norm.ppf(0.9))  # an 80 % interval


class Search:
    """Candidates as features, and what the measured ones say of the others.

    Parameters
    ----------
    pool : Pool
    config : CampaignConfig
    folder : Path, optional
        Where what RDKit computed of a pool of molecules is kept between calls.
    """

    def __init__(self, pool: Pool, config: CampaignConfig, folder: Path | None = None) -> None:
        self.pool = pool
        self.config = config
        self.featuriser = featuriser_of(pool, folder)
        self.features: Features = self.featuriser.pool
        self.row = {candidate.name: i for i, candidate in enumerate(pool.candidates)}
        self.signs = np.array([-1.0 if target.minimise else 1.0 for target in config.targets])
        self.limits = Limits(pool, config)
        self._table = forest_table(self.features)
        self._surrogates: dict[int, Ensemble] = {}
        self._learned: str | None = None

    def learn(
        self, measured: Sequence[Measurement], accepted: Sequence[str] = (), rejected: Sequence[str] = ()
    ) -> None:
        """Average repeats and fit a surrogate for each target; the order of the measurements changes nothing.

        Candidates that are accepted (being measured) or rejected, by name, are not proposed; batches are chosen as if
        the accepted ones had come out as expected.
        """
        self.pending = sorted(self.row[name] for name in accepted)
        self._out = sorted(self.row[name] for name in rejected) + self.pending
        digest = repr(sorted((each.candidate, repr(each.values)) for each in measured))
        if digest == self._learned:
            return
        self._learned = digest
        values: dict[int, list[list[float]]] = {}
        for each in measured:
            per_target = values.setdefault(self.row[each.candidate], [[] for _ in self.config.targets])
            for kept, value in zip(per_target, each.values):
                if value is not None:
                    kept.append(value)
        self.tried = sorted(values)
        self.known = [
            {row: sorted(values[row][k]) for row in self.tried if values[row][k]}
            for k in range(len(self.config.targets))
        ]
        self._surrogates = {k: self._fitted(k) for k in range(len(self.config.targets)) if self.learnable(k)}

    def learnable(self, k: int = 0) -> bool:
        """Whether there are enough distinct values of target k to learn from."""
        means = {float(np.mean(values)) for values in self.known[k].values()}
        return len(self.known[k]) >= _FEWEST and len(means) > 1

    def values(self, k: int = 0) -> tuple[list[int], Array, Array]:
        """Measured rows of target k, their mean values and how often each was measured."""
        rows = sorted(self.known[k])
        means = np.array([float(np.mean(self.known[k][row])) for row in rows])
        return rows, means, np.array([float(len(self.known[k][row])) for row in rows])

    def surrogate(self, k: int = 0) -> Ensemble:
        """What is expected of target k; larger z is better."""
        return self._surrogates[k]

    def open_rows(self) -> Rows:
        """Pool rows that are neither tried nor decided on, and keep the limits on the pool's columns."""
        free = np.ones(len(self.features), dtype=bool)
        free[self.tried + self._out] = False
        return np.flatnonzero(free & self.limits.kept)

    def propose(self, n: int) -> list[Proposal]:
        """The next n candidates; fewer where no more are open."""
        rows = self.open_rows()
        n = min(n, len(rows))
        if n == 0:
            return []
        if not self._surrogates:
            chosen = spread_batch(Surrogate(self.features), rows, self.tried + self.pending, n, self.config.seed)
            return [self._proposal(row, {}, None, "spread") for row in chosen]
        to_learn = self._turns(n)
        find = self._pareto if len(self._surrogates) > 1 else self._best
        chosen = find(rows, n - to_learn)
        learn = self._telling(rows, chosen, to_learn)
        outlooks = self.outlook(chosen + learn)
        return [
            self._proposal(
                row, {name: each[i] for name, each in outlooks.items()}, self._chance(outlooks, i),
                "learn" if row in learn else "improve",
            )
            for i, row in enumerate(chosen + learn)
        ]  # fmt: skip

    def _turns(self, n: int) -> int:
        """How many of the next n measurements are an eighth one."""
        so_far = len(self.tried) + len(self.pending)
        return (so_far + n) // _EVERY - so_far // _EVERY

    def _telling(self, rows: Rows, chosen: list[int], n: int) -> list[int]:
        """n more rows for what they tell of the pool, so that a family that looked bad at first is not forgotten."""
        rng = np.random.default_rng([self.config.seed, len(self.tried)])
        model = self._surrogates[next(iter(self._surrogates))]
        found: list[int] = []
        for _ in range(n):
            free = rows[~np.isin(rows, chosen + found)]
            if len(free):
                found.append(telling_row(model, free, self._bonus(free), self.pending + chosen + found, rng))
        return found

    def outlook(self, rows: Sequence[int], features: Features | None = None) -> dict[str, list[Outlook]]:
        """What is expected of pool rows, or of rows of other features, by target."""
        found = {}
        for k, surrogate in self._surrogates.items():
            z, deviation = surrogate.predict(np.asarray(rows), features)
            found[self.config.targets[k].name] = self.in_units(k, z, deviation)
        return found

    def in_units(self, k: int, z: Array, deviation: Array) -> list[Outlook]:
        """Medians and intervals, calibrated on the measured candidates, in the target's unit."""
        width = _INTERVAL * self.calibration(k)["stretch"] * np.sqrt(deviation**2 + self._surrogates[k].noise)
        middle, low, high = (self.value(k, z + side * width) for side in (0, -1, 1))
        return [
            Outlook(float(m), float(min(a, b)), float(max(a, b)), float(zi), float(d))
            for m, a, b, zi, d in zip(middle, low, high, z, deviation)
        ]

    def value(self, k: int, z: Array) -> Array:
        """Scores as values, in the target's unit."""
        return self.scores(k).units(z)

    def notes(self) -> list[str]:
        """What a person should know before trusting the batch."""
        found = list(self.limits.notes)
        for k, target in enumerate(self.config.targets):
            values = {float(np.mean(each)) for each in self.known[k].values()}
            if len(values) == 1 and len(self.known[k]) > 1:
                found.append(
                    f"{target.name} has one value, {values.pop():g}, in all {len(self.known[k])} measured candidates: "
                    "nothing can be learned of it yet, so candidates unlike them are proposed"
                )
            elif k not in self._surrogates:
                found.append(
                    f"{target.name} is measured for {len(self.known[k])} candidates, too few to learn from (at least "
                    f"{_FEWEST} with different values): candidates unlike each other are proposed"
                )
        return found

    def calibration(self, k: int = 0) -> dict[str, float]:
        """How each measured candidate is foreseen from all others: the share of values within the 80 % interval, the
        stretch that makes it 80 %, and the rank correlation of expected and measured."""
        mean, deviation = self._surrogates[k].leave_one_out()
        z = self.z(k)
        off = np.abs(z - mean) / deviation
        stretch = float(np.clip(np.quantile(off, 0.8) / _INTERVAL, 0.5, 3.0)) if len(z) >= 10 else 1.0
        spread = np.std(mean) * np.std(z)
        return {
            "measured": float(len(z)),
            "within": float((off <= _INTERVAL).mean()),
            "stretch": stretch,
            "correlation": float(np.mean((mean - mean.mean()) * (z - z.mean())) / spread) if spread > 0 else 0.0,
        }

    def _fitted(self, k: int) -> Ensemble:
        rows, _, times = self.values(k)
        z = self.z(k)
        process = Surrogate(self.features)
        part = _part(z)
        process.fit(np.asarray(rows)[part], z[part], times[part])
        if len(part) < len(rows):
            process.fit(rows, z, times, refit=False)
        return Ensemble(process, self._table, np.asarray(rows), z, times, self.config.seed)

    def scores(self, k: int = 0) -> Scores:
        """The scale that target k is learned on."""
        return Scores(self.values(k)[1], float(self.signs[k]))

    def z(self, k: int = 0) -> Array:
        """Scores of the measured values of target k; larger is better."""
        return self.scores(k).z

    def _best(self, rows: Rows, n: int) -> list[int]:
        k = next(iter(self._surrogates))
        return self._believed(self._surrogates[k], self.z(k), rows, self._bonus(rows), n, self.pending)

    def _believed(
        self, model: Surrogate | Ensemble, z: Array, rows: Rows, bonus: Array, n: int, pending: list[int]
    ) -> list[int]:
        level = border(*model.predict(rows), z, self.config.share * len(self.features))
        return believer_batch(model, rows, bonus, level, n, pending)

    def _pareto(self, rows: Rows, n: int) -> list[int]:
        """ParEGO (Knowles 2006): each place of the batch weighs the targets anew, seeded by what is known."""
        full = [row for row in self.tried if all(row in known for known in self.known)]
        z = np.array([[self.z(k)[self.values(k)[0].index(row)] for k in self._surrogates] for row in full])
        if len(full) < _FEWEST:
            return self._best(rows, n)
        rng = np.random.default_rng([self.config.seed, len(self.tried)])
        bonus = self._bonus(rows)
        chosen: list[int] = []
        surrogate = Surrogate(self.features)
        for step in range(min(n, len(rows))):
            weights = rng.dirichlet(np.ones(z.shape[1]))
            worth = normal_scores(weighed(z, weights))
            part = _part(worth)
            if step == 0:
                surrogate.fit(np.asarray(full)[part], worth[part])
            surrogate.fit(full, worth, refit=False)
            free = ~np.isin(rows, chosen)
            chosen += self._believed(surrogate, worth, rows[free], bonus[free], 1, self.pending + chosen)
        return chosen

    def front(self) -> list[int]:
        """Measured rows that no other measured row beats in every target."""
        full = [row for row in self.tried if all(row in known for known in self.known)]
        table = np.array([[np.mean(known[row]) for known in self.known] for row in full]).reshape(len(full), -1)
        return [full[i] for i in undominated(table * self.signs[: table.shape[1]])]

    def _bonus(self, rows: Rows) -> Array:
        """Log probability that limits on targets are kept, minus log cost."""
        bonus = -self.limits.log_cost[rows]
        names = [target.name for target in self.config.targets]
        for limit in self.config.limits:
            if limit.column in names and names.index(limit.column) in self._surrogates:
                k = names.index(limit.column)
                z, deviation = self._surrogates[k].predict(rows)
                edge = self.scores(k).of(limit.bound)
                upward = (limit.sign == ">=") == (self.signs[k] > 0)
                side = (z - edge) / np.sqrt(deviation**2 + self._surrogates[k].noise)
                bonus += norm.logcdf(side if upward else -side)
        return bonus

    def _chance(self, outlooks: dict[str, list[Outlook]], i: int) -> float | None:
        if len(self.config.targets) > 1:
            return None
        each = outlooks[self.config.targets[0].name][i]
        return float(norm.sf((float(self.z(0).max()) - each.z) / max(each.deviation, 1e-9)))

    def _proposal(self, row: int, outlook: dict[str, Outlook], chance: float | None, why: str) -> Proposal:
        candidate = self.pool.candidates[row]
        return Proposal(candidate.name, candidate.text, int(row), outlook, chance, why)


def _part(z: Array) -> Rows:
    """The best half and an even spread of the rest, where there are too many to fit parameters on."""
    if len(z) <= _FIT:
        return np.arange(len(z))
    order = np.argsort(-z, kind="stable")
    rest = order[_FIT // 2 :]
    return np.concatenate([order[: _FIT // 2], rest[np.linspace(0, len(rest) - 1, _FIT // 2).round().astype(int)]])
