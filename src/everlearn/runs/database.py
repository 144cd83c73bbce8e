"""Where a run's journal is kept: SQLite in the run's directory, or PostgreSQL (`everlearn.runs.postgres`).

Queries are written once, in the SQL that both understand, with ``?`` for values. Both promise the same: what was
committed is on disk, and transactions that write come one after the other, so that numbers are in order of arrival.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from everlearn.errors import RunError


class Row(Protocol):
    """A row of an answer: values by the names of their columns."""

    def __getitem__(self, name: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """Names of the columns."""


class Database:
    """One connection to a journal, for the threads of one process.

    Parameters
    ----------
    place : Path or str
        File, or URL; how errors name it.

    Examples
    --------
    >>> import tempfile
    >>> db = SQLite(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> db.define("CREATE TABLE seen (number INTEGER PRIMARY KEY, name TEXT)", layout=1)
    >>> with db.transaction():
    ...     db.execute("INSERT INTO seen (name) VALUES (?)", "a")
    >>> db.value("SELECT name FROM seen")
    'a'
    """

    faults: type[Exception] | tuple[type[Exception], ...] = ()

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self._threads = threading.RLock()
        self._open = False  # whether a transaction is

    def rows(self, query: str, *values: Any) -> list[Row]:
        """The rows that answer a query."""
        with self._threads, self._one_line_errors():
            return list(self._run(query, values).fetchall())

    def row(self, query: str, *values: Any) -> Row | None:
        """The first row that answers a query, or None."""
        return next(iter(self.rows(query, *values)), None)

    def value(self, query: str, *values: Any) -> Any:
        """The first value of the first row, or None."""
        found = self.row(query, *values)
        return None if found is None else found[next(iter(found.keys()))]

    def execute(self, query: str, *values: Any) -> None:
        """Write, within the transaction that is open, or in one that then stays open until `commit`."""
        with self._threads, self._one_line_errors():
            self._begin()
            self._run(query, values)

    def execute_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """`execute` once for each of the rows."""
        with self._threads, self._one_line_errors():
            self._begin()
            self._run_many(query, rows)

    def commit(self) -> None:
        """End the open transaction, if there is one; what it wrote is on disk then."""
        with self._threads, self._one_line_errors():
            if self._open:
                self._run("COMMIT")
                self._open = False

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """All or nothing, alone among those who write, and on disk at the end."""
        with self._threads:
            self.commit()
            try:
                with self._one_line_errors():
                    self._begin()
                yield self
                self.commit()
            except BaseException:
                self._roll_back()
                raise

    def chunks(self, query: str, size: int) -> Iterator[list[Row]]:
        """The rows that answer a query, so many at a time."""
        with self._threads, self._one_line_errors():
            cursor = self._run(query)
            while rows := cursor.fetchmany(size):
                yield rows

    def count_on(self, table: str, least: int) -> None:
        """Let the numbers that a table gives begin behind those it has, and behind ``least``."""
        raise NotImplementedError

    def define(self, tables: str, layout: int) -> None:
        """Make tables that are not there yet; ``layout`` grows whenever ``tables`` do."""
        raise NotImplementedError

    def again(self, *, durable: bool = True) -> Database:
        """Another connection to the same place.

        One that is not durable neither waits for the disk nor for others that write, and may lose its last second.
        """
        raise NotImplementedError

    def lock(self) -> None:
        """Become the one who learns; raises `RunError` where another is. Lost with the connection."""

    def scrub(self) -> None:
        """Leave nothing behind of what was deleted."""
        raise NotImplementedError

    def close(self) -> None:
        """Commit and close."""
        raise NotImplementedError

    def _run(self, query: str, values: Sequence[Any] = ()) -> Any:
        raise NotImplementedError

    def _run_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError

    def _roll_back(self) -> None:
        if self._open:
            self._open = False
            self._run("ROLLBACK")

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except self.faults as error:
            line = " ".join(str(error).split())
            raise RunError(f"cannot use the journal {self.place}: {line}; nothing was changed") from error


class SQLite(Database):
    """A file of SQLite's, with a write-ahead log."""

    faults = sqlite3.Error

    def __init__(self, file: Path, *, durable: bool = True) -> None:
        super().__init__(file)
        self.file = file
        fixed = file.exists() and not all(os.access(each, os.W_OK) for each in (file, file.absolute().parent))
        if fixed:
            self._check_whole()
        name = f"{file.absolute().as_uri()}?immutable=1" if fixed else file
        with self._one_line_errors():
            self._db = sqlite3.connect(name, timeout=30, check_same_thread=False, isolation_level=None, uri=fixed)
            self._db.row_factory = sqlite3.Row
            if fixed:
                return
            self._run("PRAGMA journal_mode = WAL")
            # with WAL and FULL: a commit is on disk when it returns
            self._run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._run("PRAGMA secure_delete = ON")  # what is forgotten is overwritten

    def _check_whole(self) -> None:
        """Refuse a file that may not be written while its log holds what it has not taken in."""
        log = self.file.with_name(f"{self.file.name}-wal")
        if log.exists() and log.stat().st_size:
            raise RunError(
                f"{self.file.parent} cannot be written, and {log.name} in it is not taken into the journal yet; copy "
                "the run to a place that can be written, and read it there"
            )

    def define(self, tables: str, layout: int) -> None:
        """Make tables; the layout is SQLite's ``user_version``."""
        with self._threads, self._one_line_errors():
            if self.value("PRAGMA user_version") < layout:
                self._db.executescript(f"{tables}; PRAGMA user_version = {layout};")

    def count_on(self, table: str, least: int) -> None:
        """Nothing to do: they do so by themselves."""

    def again(self, *, durable: bool = True) -> SQLite:
        """Another connection to the same file."""
        return SQLite(self.file, durable=durable)

    def scrub(self) -> None:
        """Rewrite the file and empty its log."""
        self.commit()
        self.rows("VACUUM")
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Commit and close."""
        with self._threads:
            self.commit()
            self._db.close()

    def _run(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(query, values)

    def _run_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.executemany(query, rows)

    def _begin(self) -> None:
        if not self._open:
            self._run("BEGIN IMMEDIATE")
            self._open = True

    def _roll_back(self) -> None:
        self._open = self._db.in_transaction  # a full disk may have rolled it back already
        super()._roll_back()


def open_database(place: Path | str) -> Database:
    """Open a journal: a file of SQLite's, or PostgreSQL by its URL."""
    if isinstance(place, Path):
        return SQLite(place)
    from everlearn.runs.postgres import Postgres

    return Postgres(place)
