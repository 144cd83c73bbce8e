"""Sharing a run between machines: its journal in PostgreSQL, its versions in a store, and joining in from elsewhere.

The machine that has the run moves the journal into the database once. Any other machine joins with an empty directory:
it gets the run's configuration and secret from the database, and versions from the store. All of them predict and take
verdicts; the one who holds the database's lock learns.
"""

from __future__ import annotations

from pathlib import Path

from everlearn.errors import RunError, SettingError
from everlearn.runs import Config, Journal, Run
from everlearn.runs.database import Database, SQLite
from everlearn.runs.journal import TABLES
from everlearn.runs.postgres import without_secrets
from everlearn.runs.run import SHARE, write_config
from everlearn.runs.versions import Store
from everlearn.server.security import secret, write_secret

_CHUNK = 500


def share(path: Path, database: str | None, store: str | None) -> None:
    """See to it that a run's journal and versions are where they are asked to be, or join a run that is there.

    Parameters
    ----------
    path : Path
        The run's directory; one that holds no run joins the run whose journal is in the database.
    database : str or None
        URL of PostgreSQL.
    store : str or None
        URL of a folder or object store.

    Raises
    ------
    SettingError
        If a URL cannot be kept, or is not the one that the run has.
    RunError
        If the run is in use, the database cannot be reached or holds another run.
    """
    database = without_secrets(database) if database else None
    if store:
        Store(store).there()  # refused before anything is moved
    if not (path / "config.toml").exists():
        if database is None:
            return
        _join(path, database)
    config = Config.load(path / "config.toml")
    if database and config.database is None:
        _move(path, config, database)
    elif database and config.database != database:
        raise SettingError(
            f"the run's journal is in {config.database}, not in {database}; if the database itself was moved, change "
            f"its place in {path / 'config.toml'}"
        )
    config = _refresh(path)
    if store and config.store is None:
        with Run.open(path, write=True) as run:
            for number in run.versions.there():
                Store(store).put(number, run.versions.folder / f"{number:08d}")
            run.change(store=store)
    elif store and config.store != store:
        raise SettingError(
            f"the run's versions are in {config.store}, not in {store}; if the store itself was moved, change its "
            f"place in {path / 'config.toml'}"
        )


def _join(path: Path, database: str) -> None:
    journal = Journal(database)
    try:
        found = {row["name"]: bytes(row["content"]) for row in journal.db.rows("SELECT * FROM shared")}
    finally:
        journal.close()
    if "config" not in found:
        raise RunError(f"{database} holds no run yet; first serve one with --database on the machine that has it")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if {file.name for file in path.iterdir()} - {"secret", ".config.toml"}:  # of a join that was interrupted
            raise RunError(f"{path} is neither a run nor empty; choose another directory to join from")
        write_secret(path / "secret", found["secret"])
        (path / ".config.toml").write_bytes(found["config"])
        (path / ".config.toml").replace(path / "config.toml")
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror or error}") from error


def _refresh(path: Path) -> Config:
    """Take over what another machine changed in the configuration."""
    config = Config.load(path / "config.toml")
    if config.database is None:
        return config
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "predictions.sqlite"):
        (path / name).unlink(missing_ok=True)
    journal = Journal(config.database)
    try:
        text = journal.db.value("SELECT content FROM shared WHERE name = 'config'")
    finally:
        journal.close()
    if text is None:
        raise RunError(f"{config.database} does not hold the journal of {path}; expected the database it was moved to")
    known = Config.parse(bytes(text).decode(), path / "config.toml").model_copy(update={"database": config.database})
    if known != config:
        write_config(path, known)
    return known


def _move(path: Path, config: Config, database: str) -> None:
    """Copy the journal into the database and go on there; interrupted at any moment, it goes on when asked again.

    Nobody can join before the configuration is in the database, which is after the old journal has lost its tables: so
    that no server that still has it open can acknowledge a verdict into it.
    """
    salt, config = secret(path), config.model_copy(update={"database": database})
    target = Journal(database)
    try:
        held = target.db.value("SELECT content FROM shared WHERE name = 'secret'")
        if held is not None and bytes(held) != salt:
            raise RunError(
                f"{database} holds the journal of another run; give each run a schema of its own: ?schema=NAME"
            )
        old = SQLite(path / "journal.sqlite")
        moved = old.value("SELECT COUNT(*) FROM sqlite_master WHERE name = 'moved'")
        old.close()
        if not moved:
            with Run.open(path, write=True) as run, run.journal.db.transaction() as source:
                with target.db.transaction() as db:
                    for table in TABLES:
                        _copy(source, db, table)
                    db.execute(SHARE, "secret", salt)
                for table in TABLES:
                    source.execute(f"DROP TABLE {table}")
                source.execute("CREATE TABLE moved (number INTEGER)")
        with target.db.transaction() as db:
            db.execute(SHARE, "config", config.dump().encode())
        write_config(path, config)
    finally:
        target.close()


def _copy(source: Database, target: Database, table: str) -> None:
    target.execute(f"DELETE FROM {table}")
    for rows in source.chunks(f"SELECT * FROM {table}", _CHUNK):
        names = list(rows[0].keys())
        query = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        target.execute_many(query, [[row[name] for name in names] for row in rows])
    target.count_on(table, source.value("SELECT MAX(seq) FROM sqlite_sequence WHERE name = ?", table) or 0)
