"""What the pages and the interface of a campaign stand on: the campaign, its current batch, and who may do what.

What a chemist says is on disk before it is acknowledged, and never waits for a batch that is being worked out: that is
done by a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from everlearn.discovery import Campaign, Decision, Measurement, Told, report_campaign, write_proposals
from everlearn.discovery.numbers import missing, number
from everlearn.discovery.page import pool_map, progress
from everlearn.discovery.view import View, views_of
from everlearn.errors import DataError, NotFoundError
from everlearn.server.background import step_back
from everlearn.server.security import Actor, Gate, Tokens, secret
from everlearn.server.settings import Settings


class CampaignDesk:
    """The open campaign of a server; works out a first batch where none was proposed yet.

    Attributes
    ----------
    campaign : Campaign
        Only the thread that works out batches asks it for its ``search``.
    gate : Gate
    name : str
        The run's.
    fault : str or None
        Why the last batch could not be worked out, in one line.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.run.resolve().name
        self.campaign = Campaign.open(settings.run)
        try:
            self.gate = Gate(settings, Tokens(self.campaign.entries.journal.db), secret(settings.run))
        except BaseException:
            self.campaign.close()
            raise
        self.fault: str | None = None
        self._map = ""
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None
        self._start(propose=not self.campaign.entries.batches())

    def close(self) -> None:
        """Wait for the batch that is being worked out, and close the campaign."""
        if self._thread is not None:
            self._thread.join()
        self.campaign.close()

    @property
    def working(self) -> bool:
        """Whether a batch is being worked out."""
        return self._thread is not None and self._thread.is_alive()

    def batch(self) -> tuple[int, list[View]]:
        """Number of the last batch that was proposed, and its proposals with reasons; 0 and none before the first."""
        batches = self.campaign.entries.batches()
        return len(batches), batches[-1] if batches else []

    def values(self) -> dict[str, list[tuple[float | None, ...]]]:
        """Measured values by candidate, in order."""
        found: dict[str, list[tuple[float | None, ...]]] = {}
        for each in self.campaign.measured:
            found.setdefault(each.candidate, []).append(each.values)
        return found

    def decide(self, candidate: str, verdict: str, note: str, who: Actor) -> Decision | None:
        """Accept, reject, or undo that; durable when this returns."""
        name = self.known(candidate)
        self.campaign.decide(name, verdict, note, who.name)
        return self.campaign.decisions.get(name)

    def tell(self, candidate: str, texts: Mapping[str, str], key: str, who: Actor) -> Told:
        """Enter a result as it was typed, in the unit of the pool's column; durable when this returns.

        The same key counts once.

        Raises
        ------
        DataError
            If there is no such candidate or target, or a value is no number in the column's unit.
        """
        name = self.known(candidate)
        targets = [target.name for target in self.campaign.config.targets]
        unknown = [target for target in texts if target not in targets]
        if unknown:
            raise NotFoundError(f"there is no target {unknown[0]!r}; expected {', '.join(targets)}")
        values = tuple(self._value(target, texts.get(target, "")) for target in targets)
        if all(value is None for value in values):
            raise DataError(f"no value is given; expected a number for {' or '.join(targets)}")
        return self.campaign.tell([Measurement(name, values)], source=f"page, {who.name}", key=key)

    def propose(self) -> None:
        """Begin to work out the next batch; does nothing while one is being worked out."""
        self._start(propose=True)

    def progress(self) -> str:
        """The campaign's progress as SVG, empty before anything is measured."""
        return progress(self.campaign)

    def pool_map(self) -> str:
        """The map of the pool as SVG, as of the last batch; empty while that is worked out."""
        return self._map

    def known(self, candidate: str) -> str:
        """The candidate's name in the pool, or a `NotFoundError`."""
        name = self.campaign.pool.find({"candidate": candidate})
        if name is None:
            raise NotFoundError(f"there is no candidate {candidate[:200]!r} in the pool")
        return name

    def _start(self, propose: bool) -> None:
        with self._begin:
            if not self.working:
                self.fault = None
                self._thread = threading.Thread(target=self._work, args=(propose,), name="next batch", daemon=True)
                self._thread.start()

    def _work(self, propose: bool) -> None:
        step_back()
        try:
            proposals = self.campaign.ask() if propose else []
            if propose:
                reasons = self.campaign.explain(proposals)
                report_campaign(self.campaign, proposals, reasons)
                write_proposals(self.campaign, proposals, reasons)
                self.campaign.entries.propose(views_of(self.campaign, proposals, reasons))
            self._map = pool_map(
                self.campaign.search, [self.campaign.search.row[each["name"]] for each in self.batch()[1]]
            )
        except Exception as error:  # whatever it is, the campaign goes on, and the page says so
            self.fault = " ".join(str(error).split()) or type(error).__name__

    def _value(self, target: str, text: str) -> float | None:
        if missing(text):
            return None
        try:
            return number(text, self.campaign.pool.units[target])
        except ValueError as error:
            raise DataError(f"{target}: {error}") from error
