"""The pool: a table of candidates, some of them measured. What cannot be used is named with its row and kept aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everlearn.discovery import compositions, molecules, numbers, structures
from everlearn.discovery.columns import Column, read_columns
from everlearn.discovery.config import CampaignConfig, Inputs
from everlearn.discovery.tables import SURPLUS, read_table
from everlearn.errors import DataError, SettingError

_SMILES = ("smiles", "canonical_smiles", "isomeric_smiles")
_FORMULA = ("composition", "formula", "pretty_formula", "reduced_formula")
_NAMES = ("id", "name", "candidate", "identifier")


@dataclass(frozen=True)
class Aside:
    """A row that was kept aside: its number in the file (the header is row 1), and why."""

    row: int
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.reason}"


@dataclass(frozen=True)
class Measurement:
    """Values of a candidate's targets as one experiment found them; None where it did not look."""

    candidate: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Candidate:
    """Something that could be made: a name, its input as written, and its row's cells."""

    name: str
    text: str
    cells: dict[str, str]


@dataclass
class Pool:
    """Candidates in the order of the file.

    Attributes
    ----------
    inputs : {"smiles", "composition", "columns"}
    column : str or None
        Column of the SMILES or formulas.
    identity : str or None
        Column of the names; without one a candidate goes by its SMILES, its formula or ``row N``.
    structures : str or None
        Column of the crystal structures, as JSON.
    candidates : list of Candidate
    measured : list of Measurement
        What the table knew already.
    units : dict
        Unit of each target, '' for none.
    aside : list of Aside
    columns : list of Column
        How the input columns are read, where the inputs are columns.
    same : dict
        Name of the candidate that a name, or an input however it is written, stands for.
    refused : dict
        Why the row of a name or an input as written was kept aside.
    """

    inputs: Inputs
    column: str | None
    identity: str | None
    structures: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    aside: list[Aside] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Aside] = field(default_factory=dict)

    def extend(self, texts: Sequence[str]) -> list[Candidate]:
        """Add candidates that no table lists, by SMILES or formula; what is there already is passed over."""
        added = []
        for text in texts:
            key = _key(self.inputs, text)
            if key not in self.same and text not in self.same:
                added.append(Candidate(text, text, {self.column or "": text}))
                self.same |= {text: text, key: text}
        self.candidates += added
        return added

    def find(self, cells: dict[str, str]) -> str | None:
        """Name of the candidate that a row of results speaks of, None where there is none."""
        for column in (self.identity, "candidate", self.column):
            text = cells.get(column or "", "").strip()
            if not text:
                continue
            if text in self.same:
                return self.same[text]
            try:
                found = self.same.get(_key(self.inputs, text))
            except ValueError:
                found = None
            if found is not None:
                return found
        return None


def read_pool(file: Path, config: CampaignConfig) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The table as a campaign keeps it: structures are read from their files and held in it."""
    header, rows = read_table(file)
    if config.structures is None:
        return header, rows
    if config.structures not in header:
        raise SettingError(f"{file} has no column {config.structures!r}; it has {', '.join(header)}")
    formula = config.column is None and not any(name.lower() in _FORMULA for name in header)
    return structures.with_structures(header, rows, config.structures, file.parent, formula)


def open_pool(file: Path, config: CampaignConfig) -> Pool:
    """Read a pool.

    Raises
    ------
    DataError
        If no row can be used.
    SettingError
        If a column that was named is not there.
    """
    header, rows = read_pool(file, config)
    targets = [target.name for target in config.targets]
    for name in (
        *targets,
        config.column,
        config.identity,
        config.cost,
        config.structures,
        *config.ignore,
        *(x.column for x in config.limits),
    ):
        if name is not None and name not in header:
            raise SettingError(f"{file} has no column {name!r}; it has {', '.join(header)}")
    inputs, column = _inputs(header, config, file)
    identity = config.identity or next(
        (name for name in header if name.lower() in _NAMES and name not in targets), None
    )
    if config.structures and inputs != "composition":
        raise SettingError(f"structures are of compositions; the candidates of {file} are {inputs}")
    pool = Pool(inputs, column, identity, config.structures)
    pool.units = {name: numbers.common_unit(cells[name] for _, cells in rows) for name in targets}
    if inputs == "columns":
        pool.columns = read_columns(_described(header, pool, config), [cells for _, cells in rows])
    first: dict[str, tuple[int, Candidate]] = {}
    for row, cells in rows:
        _enter(pool, first, row, cells)
    if not pool.candidates:
        why = f": {pool.aside[0]}" if pool.aside else "; expected one candidate a row below the header"
        raise DataError(f"{file} holds no candidate that can be used{why}")
    return pool


def values_of(cells: dict[str, str], units: dict[str, str]) -> tuple[float | None, ...]:
    """The targets' values in a row, or a `ValueError` that names the column and what is wrong."""
    values: list[float | None] = []
    for name, unit in units.items():
        text = cells.get(name, "")
        try:
            values.append(None if numbers.missing(text) else numbers.number(text, unit))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return tuple(values)


def _enter(pool: Pool, first: dict[str, tuple[int, Candidate]], row: int, cells: dict[str, str]) -> None:
    try:
        text = cells[pool.column].strip() if pool.column else _joined(cells, pool.columns)
        fault = structures.fault(cells[pool.structures]) if pool.structures else None
        if fault := fault or cells.get(SURPLUS):
            raise ValueError(fault)
        if not text.strip(" ;"):
            raise ValueError(f"{pool.column or 'every input column'} is empty")
        key = _key(pool.inputs, text)
        values = values_of(cells, pool.units)
        for column in pool.columns:
            if column.numeric:
                column.number(cells)
    except ValueError as error:
        pool.aside.append(Aside(row, str(error)))
        for text in (cells.get(named or "", "").strip() for named in (pool.identity, pool.column)):
            if text:
                pool.refused.setdefault(text, pool.aside[-1])
        return
    known = any(value is not None for value in values)
    name = cells[pool.identity].strip() if pool.identity else ""
    if key in first:
        earlier, candidate = first[key]
        if known:
            pool.measured.append(Measurement(candidate.name, values))
        kept = "its value counts as a repeat" if known else "it is listed once"
        pool.aside.append(Aside(row, f"the same candidate as row {earlier}; {kept}"))
        if name:
            pool.same.setdefault(name, candidate.name)
        return
    if name in pool.same:
        pool.aside.append(Aside(row, f"the name {name!r} is another candidate's already"))
        return
    candidate = Candidate(name or (text if pool.column else f"row {row}"), text, cells)
    first[key] = (row, candidate)
    pool.candidates.append(candidate)
    pool.same |= {candidate.name: candidate.name, key: candidate.name}
    if known:
        pool.measured.append(Measurement(candidate.name, values))


def _inputs(header: list[str], config: CampaignConfig, file: Path) -> tuple[Inputs, str | None]:
    smiles = next((name for name in header if name.lower() in _SMILES), None)
    formula = next((name for name in header if name.lower() in _FORMULA), None)
    inputs: Inputs = config.inputs or ("smiles" if smiles else "composition" if formula else "columns")
    if inputs == "columns":
        return inputs, None
    column = config.column or (smiles if inputs == "smiles" else formula)
    if column is None:
        raise SettingError(f"{file} has no column named {inputs}; name it with --column; it has {', '.join(header)}")
    return inputs, column


def _key(inputs: Inputs, text: str) -> str:
    """What is equal for the same candidate however it was written."""
    if inputs == "smiles":
        return molecules.canonical(text)
    return compositions.canonical(text) if inputs == "composition" else text


def _joined(cells: dict[str, str], columns: Sequence[Column]) -> str:
    return ";".join(cells[column.name].strip() for column in columns)


def _described(header: Sequence[str], pool: Pool, config: CampaignConfig) -> list[str]:
    left_out = {target.name for target in config.targets} | {pool.identity, config.cost, *config.ignore}
    return [name for name in header if name and name not in left_out]
