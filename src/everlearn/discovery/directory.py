"""A campaign's directory: what is written when it is begun, and whether all of it is still there."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np

from everlearn.discovery.config import CampaignConfig
from everlearn.discovery.entries import Entries
from everlearn.discovery.limits import Limits
from everlearn.discovery.needs import need
from everlearn.discovery.pool import Pool, open_pool, read_pool
from everlearn.discovery.structures import table_text
from everlearn.errors import RunError, SettingError
from everlearn.runs.lock import check_directory

CONFIG, POOL, JOURNAL = "campaign.toml", "pool.csv", "journal.sqlite"


def check_new(path: Path, pool: Path, config: CampaignConfig) -> None:
    """Refuse a directory that holds a run, and a pool that cannot be searched; nothing is written.

    Raises
    ------
    RunError
        If the directory is a file, or holds a run of any kind.
    DataError, SettingError
        If the pool cannot be used, or not with these settings.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; a run needs a directory")
    if (path / CONFIG).exists():
        raise RunError(f"{path} holds a run already; go on with everlearn discover {path}, or choose another directory")
    if (path / "config.toml").exists():
        raise RunError(f"{path} holds a run already, which is no campaign; choose another directory")
    if (path / JOURNAL).exists():
        raise RunError(
            f"{path} has the journal of a run, but no {CONFIG}; put that back from a copy, or choose another directory"
        )
    if config.stability is not None:
        need("chgnet", "crystals")
    opened = open_pool(pool, config)
    limits = Limits(opened, config)
    if config.limits and not np.any(limits.kept):
        words = ", ".join(map(str, config.limits))
        raise SettingError(f"{pool}: no candidate keeps {words}; widen the limits, or name columns of numbers")
    if config.cost and not np.any(limits.priced):
        raise SettingError(f"{pool}: {config.cost!r} holds no cost above 0 for any candidate; name another column")


def write_new(path: Path, pool: Path, config: CampaignConfig) -> CampaignConfig:
    """Write what a campaign begins with; gives its settings, which know the pool from now on.

    ``campaign.toml`` is last: a campaign that has it has all the rest.
    """
    _copy(pool, path / POOL, config)
    config = config.model_copy(update={"pool": _digest(path / POOL)})
    journal = path / f".{JOURNAL}"
    journal.unlink(missing_ok=True)
    entries = Entries(journal)
    entries.begin(config.pool)
    entries.close()
    journal.rename(path / JOURNAL)
    beside = path / f".{CONFIG}"
    beside.write_text(config.dump(), encoding="utf-8")
    beside.rename(path / CONFIG)
    return config


def check_files(path: Path) -> CampaignConfig:
    """The settings of the campaign in a directory, once its files are known to be those it was begun with.

    Raises
    ------
    RunError
        If it is no campaign, cannot be written to, or has lost its pool or its journal.
    """
    check_directory(path)
    config = CampaignConfig.load(path / CONFIG)
    if not os.access(path, os.W_OK):
        raise RunError(
            f"{path} is read-only, and a campaign writes its next batch there; copy it to where you may write, or "
            "allow writing to it"
        )
    if not (path / POOL).is_file():
        raise RunError(f"{path} has lost its {POOL}; put it back from a copy, or begin another campaign")
    if config.pool and config.pool != _digest(path / POOL):
        raise RunError(
            f"{path / POOL} is not as the campaign was begun with it: it was cut or changed; put it back from a copy, "
            "or begin another campaign with it"
        )
    if config.pool and not (path / JOURNAL).is_file():
        raise _lost(path)
    return config


def check_journal(path: Path, config: CampaignConfig, entries: Entries) -> None:
    """Refuse a journal that is another campaign's, or was emptied."""
    if config.pool and entries.begun() != config.pool:
        raise _lost(path)


def check_known(path: Path, pool: Pool, entries: Entries) -> None:
    """Refuse a journal that tells of candidates the pool has not."""
    known = {candidate.name for candidate in pool.candidates}
    spoken_of = [result.candidate for telling in entries.told() for result in telling.results]
    if strange := next((name for name in [*spoken_of, *entries.decisions()] if name not in known), None):
        raise RunError(
            f"{path / JOURNAL} tells of {strange!r}, which {path / POOL} has not: one of them was cut or changed; put "
            "it back from a copy"
        )


def _lost(path: Path) -> RunError:
    return RunError(
        f"{path / JOURNAL} has lost what this campaign was told: it was emptied, removed or replaced; put it back from "
        f"a copy, or begin another campaign with {path / POOL}"
    )


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or error}") from error


def _copy(pool: Path, to: Path, config: CampaignConfig) -> None:
    """Plain text beside, then a rename: the run does not change when the pool's file, or a structure's, does."""
    import gzip

    beside = to.with_name(f".{to.name}")
    if config.structures is not None:
        beside.write_text(table_text(*read_pool(pool, config)), encoding="utf-8")
    elif pool.suffix == ".gz":
        with gzip.open(pool, "rb") as packed, beside.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    else:
        shutil.copyfile(pool, beside)
    beside.rename(to)
