"""A campaign: candidates, what was measured of them, and what to measure next. Durable as every run.

The directory: ``campaign.toml``, ``pool.csv`` (a copy of the pool as it was), ``journal.sqlite`` with every result
told, ``proposals.csv`` and ``report.html``. What `tell` was given is on disk when it returns; `ask` depends on the seed
and on the results told alone, so a campaign that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from everlearn.discovery import directory
from everlearn.discovery.config import CampaignConfig
from everlearn.discovery.entries import Decision, Entries, Telling
from everlearn.discovery.neighbours import neighbours_of
from everlearn.discovery.numbers import LARGEST
from everlearn.discovery.pool import Aside, Measurement, Pool, open_pool
from everlearn.discovery.proposal import Proposal
from everlearn.discovery.reason import Reason
from everlearn.discovery.reasons import explain
from everlearn.discovery.results import measurements, read_results, unknown
from everlearn.discovery.search import Search
from everlearn.discovery.stability import Stability
from everlearn.discovery.stable import Judge
from everlearn.errors import NotFoundError, RunError, SettingError, TakenError
from everlearn.runs.lock import locked


@dataclass(frozen=True)
class Told:
    """What came of telling results: how many were learned, how many of these are repeats, which were kept aside."""

    learned: int
    repeats: int = 0
    aside: list[Aside] = field(default_factory=list)
    again: bool = False


class Campaign:
    """An open campaign. Use as a context manager, or call `close`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [f"{x},{-x * x if x % 4 == 0 else ''}" for x in range(-9, 10)]
    >>> _ = (folder / "pool.csv").write_text("\\n".join(["x,y", *rows]))
    >>> config = CampaignConfig.of({"targets": [{"name": "y"}], "inputs": "columns", "batch": 2})
    >>> with Campaign.create(folder / "run", folder / "pool.csv", config) as campaign:
    ...     proposals = campaign.ask()
    ...     told = campaign.tell({proposals[0].candidate: -1.0})
    >>> len(proposals), told.learned
    (2, 1)
    """

    def __init__(self, path: Path, config: CampaignConfig, lock: FileLock) -> None:
        self.path = path
        self.config = config
        self._lock = lock
        self.pool: Pool = open_pool(path / "pool.csv", config)
        self.entries = Entries(path / "journal.sqlite")
        try:
            directory.check_journal(path, config, self.entries)
            self.pool.extend(self.entries.enumerated())
            directory.check_known(path, self.pool, self.entries)
        except BaseException:
            self.entries.close()
            raise
        self._search: Search | None = None

    @classmethod
    def create(cls, path: Path | str, pool: Path | str, config: CampaignConfig) -> Campaign:
        """Begin a campaign in a directory that holds none yet; the pool is checked before anything is written."""
        path, pool = Path(path), Path(pool)
        directory.check_new(path, pool, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run's directory {path}: {error.strerror or error}") from error
        lock = locked(path)
        try:
            return cls(path, directory.write_new(path, pool, config), lock)
        except OSError as error:
            lock.release()
            raise RunError(f"cannot write to the run's directory {path}: {error.strerror or error}") from error
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path | str) -> Campaign:
        """Open a campaign that is there, with all that it was begun with."""
        path = Path(path)
        config = directory.check_files(path)
        lock = locked(path)
        try:
            return cls(path, config, lock)
        except BaseException:
            lock.release()
            raise

    def ask(self, n: int | None = None) -> list[Proposal]:
        """The next n candidates to measure, most promising first; fewer where the pool has no more."""
        n = self.config.batch if n is None else n
        if n < 1:
            raise SettingError(f"n is {n}; expected 1 or more proposals")
        if self.config.stability is not None:
            return Judge(self.entries, self.pool, self.config.stability).propose(lambda: self.search, n)
        return self.search.propose(n)

    @property
    def stabilities(self) -> dict[str, Stability]:
        """How stable the candidates are whose structures were relaxed, by name."""
        return {name: Stability.of(each) for name, each in self.entries.judged().items()}

    @property
    def unstable(self) -> dict[str, str]:
        """Why candidates are not proposed although they look good: they would fall apart."""
        limit = self.config.stability
        if limit is None:
            return {}
        refused = {name: each.refused(limit) for name, each in self.stabilities.items()}
        return {name: why for name, why in refused.items() if why}

    def enumerate(self, n: int = 200) -> list[str]:
        """Add up to n neighbours of the best measured candidates to the pool, to be proposed like all others.

        Raises
        ------
        SettingError
            If nothing is measured to begin from, or the candidates are neither molecules nor compositions.
        """
        added = neighbours_of(self.search, n)
        if added:
            self.entries.enumerate(added)
            self.pool.extend(added)
            self._search = None
        return added

    @property
    def enumerated(self) -> set[str]:
        """Names of the candidates that no table lists."""
        return set(self.entries.enumerated())

    def explain(self, proposals: Sequence[Proposal], target: int = 0) -> list[Reason]:
        """Why each is proposed, for one of the targets: parts, measured candidates for and against, and the check."""
        return explain(self.search, proposals, target)

    def decide(self, candidate: str, verdict: str, note: str = "", by: str = "") -> None:
        """Accept a candidate (it is being made), reject it (it shall not be made) or undo that.

        Neither kind is proposed again; batches are chosen as if the accepted ones had come out as expected.

        Parameters
        ----------
        candidate : str
            Its name, SMILES or formula.
        verdict : {"accept", "reject", "undo"}
        note, by : str
            Why, and who says so.

        Raises
        ------
        NotFoundError
            If there is no such candidate.
        """
        name = self.pool.find({"candidate": candidate})
        if name is None:
            raise NotFoundError(f"there is no candidate {candidate[:200]!r} in the pool")
        self.entries.decide(name, verdict, note, by)

    @property
    def decisions(self) -> dict[str, Decision]:
        """What was last decided on each candidate."""
        return self.entries.decisions()

    def tell(
        self,
        results: Mapping[str, float | Mapping[str, float]] | Iterable[Measurement],
        source: str = "tell",
        key: str | None = None,
    ) -> Told:
        """Learn what experiments found; what cannot be used is kept aside and named by its place, from 1.

        Parameters
        ----------
        results : mapping or iterable of Measurement
            Value of each candidate (of each target where there are several). A candidate may be told again: repeats
            are averaged, and count as that much more certain.
        source : str
            Where they come from, for the record.
        key : str, optional
            What is told with a key already is not told again.

        Returns
        -------
        Told

        Raises
        ------
        DataError
            If other results are told with that key.
        """
        entries = [(i, each) for i, each in enumerate(measurements(results, self.config), start=1)]
        return self._enter(entries, [], source, key=key)

    def tell_file(self, file: Path | str) -> Told:
        """Learn a CSV of results: a column that names candidates as the pool does, or ``candidate``, and the targets.

        Raises
        ------
        DataError
            If the file cannot be read or has no such columns. Single rows that cannot be used are kept aside instead.
        """
        file = Path(file)
        entries, aside = read_results(file, self.pool, self.config)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return self._enter(entries, aside, file.name, digest=digest)

    @property
    def measured(self) -> list[Measurement]:
        """All that is known: the pool's own measurements, then what was told, in order."""
        return [*self.pool.measured, *(result for telling in self.told for result in telling.results)]

    @property
    def told(self) -> list[Telling]:
        """What was told, in order, but for what was taken back."""
        return self.entries.told()

    def take_back(self, number: int, by: str = "") -> None:
        """Take back the telling of this number, such as one with a slip of the pen."""
        self.entries.take_back(number, by)

    @property
    def aside(self) -> list[tuple[str, Aside]]:
        """All rows kept aside, with the file they are in."""
        told = [(telling.source, each) for telling in self.told for each in telling.aside]
        return [("pool", each) for each in self.pool.aside] + told

    @property
    def search(self) -> Search:
        """The surrogate's view, as of what is known now."""
        if self._search is None:
            self._search = Search(self.pool, self.config, self.path)
        decided = self.decisions.values()
        accepted, rejected = ([d.candidate for d in decided if d.verdict == v] for v in ("accept", "reject"))
        self._search.learn(self.measured, accepted, [*rejected, *self.unstable])
        return self._search

    def close(self) -> None:
        """Close the journal and let others in; closing twice does nothing."""
        if not self._lock.is_locked:
            return
        try:
            self.entries.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter(
        self,
        entries: list[tuple[int, Measurement]],
        aside: list[Aside],
        source: str,
        key: str | None = None,
        digest: str | None = None,
    ) -> Told:
        """Everything of one telling in one transaction: it is all on disk, or none of it."""
        aside, good = list(aside), []
        for row, each in entries:
            name = self.pool.find({"candidate": each.candidate})
            if name is None:
                aside.append(Aside(row, unknown(self.pool, each.candidate)))
            elif any(value is not None and not abs(value) <= LARGEST for value in each.values):
                aside.append(Aside(row, f"{name} has a value that is not finite, or beyond {LARGEST:g}"))
            else:
                good.append(Measurement(name, each.values))
        aside = sorted(aside, key=lambda each: each.row)
        known = {each.candidate for each in self.measured}
        held = self.entries.tell(good, aside, source, key or digest)
        if held is not None and key is not None and held.results != tuple(good):
            raise TakenError(
                f"the key {key[:100]!r} is told already with other results, as entry {held.number}; expected the same, "
                "or another key (on the page: load it again)"
            )
        if held is not None:
            return Told(0, again=True)
        repeats = len(good) - len({each.candidate for each in good} - known)
        return Told(len(good), repeats, aside)
