"""Tables whose values are all known, to search again: which file, which column, which way."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from everlearn.errors import UNREADABLE, DataError, SettingError


@dataclass(frozen=True)
class PoolSet:
    """A table whose values are all known.

    Parameters
    ----------
    name : str
    file : Path
        CSV, also packed by gzip.
    target : str
    minimise : bool
    inputs : {"smiles", "composition", "columns"} or None
        By default what the columns' names say.
    group : str or None
        Column whose groups a group split keeps together, such as the study; it is no input.
    task : str or None
        Only rows that have this in the column ``task``.
    ignore : tuple of str
        Further columns that are no inputs.
    """

    name: str
    file: Path
    target: str
    minimise: bool = False
    inputs: str | None = None
    group: str | None = None
    task: str | None = None
    ignore: tuple[str, ...] = ()


_COMPOSITIONS = "composition_properties.csv.gz"
SETS = {
    "tadf": PoolSet("TADF emitters, lowest gap", Path("tadf_oled.csv.gz"), "dE_ST_eV", True, "smiles"),
    "electrolytes": PoolSet(
        "lithium electrolytes, conductivity", Path("calisol23_electrolyte_conductivity.csv.gz"), "k", False, "columns",
        group="doi",
    ),
    "qm9": PoolSet("QM9, largest gap", Path("qm9_4targets.csv.gz"), "gap_hartree", False, "smiles"),
    "gap": PoolSet(
        "band gaps by composition", Path(_COMPOSITIONS), "y", False, "composition",
        task="matbench_expt_gap:gap expt",
    ),
    "tc": PoolSet(
        "superconductors, critical temperature", Path(_COMPOSITIONS), "y", False, "composition",
        task="superconductivity2018:Tc",
    ),
}  # fmt: skip


def sets_in(folder: Path, names: Sequence[str]) -> list[PoolSet]:
    """The named sets, their files in a folder.

    Raises
    ------
    SettingError, DataError
        If there is no such set, or no such file.
    """
    found = []
    for name in names:
        if name not in SETS:
            raise SettingError(f"there is no set {name!r}; expected some of {', '.join(SETS)}")
        file = folder / SETS[name].file
        if not file.exists():
            raise DataError(f"{file}: there is no such file; --folder names where the sets are")
        found.append(replace(SETS[name], file=file))
    return found


def draw(pool: PoolSet, rows: int) -> list[dict[str, str]]:
    """The table's rows with a value, cells stripped, at most so many."""
    opened = gzip.open if pool.file.suffix == ".gz" else open
    try:
        with opened(pool.file, "rt", encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            header = reader.fieldnames or []
            missing = [name for name in (pool.target, pool.group) if name and name not in header]
            if missing:
                raise SettingError(f"{pool.file} has no column {missing[0]!r}; it has {', '.join(header)}")
            table = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"{pool.file}: there is no such file") from error
    except (*UNREADABLE, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {pool.file}: {error}") from error
    table = [row for row in table if row[pool.target] and (pool.task is None or row["task"] == pool.task)]
    if not table:
        raise DataError(f"{pool.file} has no row with a value of {pool.target}")
    if len(table) > rows:
        table = [table[int(i)] for i in sorted(np.random.default_rng(0).choice(len(table), rows, replace=False))]
    return table


def write_table(table: list[dict[str, str]], plain: Path) -> None:
    """A plain CSV, its folder made where it is missing."""
    plain.parent.mkdir(parents=True, exist_ok=True)
    with plain.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
