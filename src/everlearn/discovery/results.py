"""What experiments found, as it is told: values by candidate, or the rows of a CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from everlearn.discovery.config import CampaignConfig
from everlearn.discovery.pool import Aside, Measurement, Pool, values_of
from everlearn.discovery.tables import SURPLUS, read_table
from everlearn.errors import DataError, SettingError


def measurements(
    results: Mapping[str, float | Mapping[str, float]] | Iterable[Measurement], config: CampaignConfig
) -> list[Measurement]:
    """Values by candidate, and by target where there are several, as measurements.

    Raises
    ------
    SettingError
        If a target is unknown, or not said where there are several.
    """
    if not isinstance(results, Mapping):
        return list(results)
    names = [target.name for target in config.targets]
    found = []
    for candidate, value in results.items():
        if not isinstance(value, Mapping):
            if len(names) > 1:
                raise SettingError(f"{candidate} has one value; expected a mapping with {', '.join(names)}")
            value = {names[0]: value}
        unknown = [name for name in value if name not in names]
        if unknown:
            raise SettingError(f"{candidate} has a value of {unknown[0]!r}; the targets are {', '.join(names)}")
        found.append(Measurement(candidate, tuple(value.get(name) for name in names)))
    return found


def unknown(pool: Pool, shown: str) -> str:
    """Why a candidate that results speak of is none of the pool's."""
    if not shown:
        return "it names no candidate"
    if shown in pool.refused:
        return f"unknown candidate {shown!r}; the pool's {pool.refused[shown]}, so it was kept aside"
    return f"unknown candidate {shown!r}; it is not in the pool"


def read_results(file: Path, pool: Pool, config: CampaignConfig) -> tuple[list[tuple[int, Measurement]], list[Aside]]:
    """Measurements of a CSV with their rows, and the rows that cannot be used.

    Raises
    ------
    DataError
        If the file cannot be read, or has no column of candidates or of a target.
    """
    header, rows = read_table(file)
    names = [name for name in ("candidate", pool.identity, pool.column) if name]
    named = [name for name in names if name in header]
    if not named or not any(target.name in header for target in config.targets):
        wanted = " or ".join(dict.fromkeys(names))
        raise DataError(
            f"{file} has the columns {', '.join(header)}; expected {wanted} and at least one of the targets "
            f"{', '.join(target.name for target in config.targets)}"
        )
    entries: list[tuple[int, Measurement]] = []
    aside: list[Aside] = []
    for row, cells in rows:
        candidate = pool.find(cells)
        if candidate is None:
            shown = next((cells[name].strip() for name in named if cells[name].strip()), "")
            aside.append(Aside(row, unknown(pool, shown)))
            continue
        try:
            if SURPLUS in cells:
                raise ValueError(cells[SURPLUS])
            values = values_of(cells, pool.units)
        except ValueError as error:
            aside.append(Aside(row, f"{candidate}: {error}"))
            continue
        if all(value is None for value in values):
            aside.append(Aside(row, f"{candidate} has no value"))
            continue
        entries.append((row, Measurement(candidate, values)))
    return entries, aside
