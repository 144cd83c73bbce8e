"""Crystal structures of a pool: a column of CIF, POSCAR or pymatgen JSON files, or of pymatgen JSON itself.

A campaign keeps them as JSON in its own copy of the pool, so it does not depend on the files. Neighbours that no table
lists take the structure of the candidate they were made from, with one element exchanged.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlearn.discovery import compositions
from everlearn.discovery.needs import need
from everlearn.discovery.tables import SURPLUS

FORMULA = "formula"
"""Column that is made of the structures where the table names no formula."""

_MOST = 200  # sites of a structure: relaxing takes time that grows with them
_CLOSE = 0.5  # Å between two atoms, below which a structure is no crystal
_KEPT, _FAULT = '{"kept"', '{"error"'

Table = list[tuple[int, dict[str, str]]]


def with_structures(
    header: list[str], rows: Table, column: str, folder: Path, formula: bool
) -> tuple[list[str], Table]:
    """The table with each structure as JSON, or ``{"error": …}`` for one that cannot be read; empty cells stay.

    Parameters
    ----------
    header, rows : list
        As `everlearn.discovery.tables.read_table` gives them.
    column : str
        Of the structures.
    folder : Path
        That paths are relative to.
    formula : bool
        Whether to add the column ``formula``.
    """
    read = []
    for number, cells in rows:
        text = cells[column].strip()
        if text:
            try:
                if SURPLUS in cells:
                    raise ValueError(cells[SURPLUS])
                text = text if _is_kept(text) else dump(load(text, folder))
            except ValueError as error:
                text = json.dumps({"error": str(error)})
        added = {FORMULA: formula_of(text)} if formula else {}
        read.append((number, cells | {column: text} | added))
    return header + [FORMULA] * formula, read


def load(text: str, folder: Path) -> Any:
    """A pymatgen structure from a cell of the table, or a `ValueError` that says in one line what is wrong."""
    core, path = need("pymatgen.core"), folder / text
    json_text = text.startswith("{")
    name = "structure" if json_text else Path(text).name
    try:
        if not json_text and not path.is_file():
            raise ValueError("there is no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = core.Structure.from_dict(json.loads(text)) if json_text else _from_file(path)
    except Exception as error:  # pymatgen's readers raise whatever their parsers do
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: cannot read it as a crystal structure: {line[:200]}") from error
    if not 0 < len(found) <= _MOST:
        raise ValueError(f"{name} has {len(found)} sites; expected 1 to {_MOST}")
    if not found.is_ordered:
        raise ValueError(f"{name} has sites that several elements share; expected an ordered structure")
    if not found.is_valid(_CLOSE):
        raise ValueError(f"{name} has atoms nearer than {_CLOSE} Å to each other")
    return found


def dump(structure: Any) -> str:
    """JSON on one line.

    Examples
    --------
    >>> core = need("pymatgen.core")
    >>> salt = core.Structure.from_spacegroup("Fm-3m", core.Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    >>> formula_of(dump(salt)), load(dump(salt), Path()).num_sites
    ('NaCl', 8)
    """
    return json.dumps({"kept": True} | structure.as_dict(verbosity=0))


def formula_of(text: str) -> str:
    """Reduced formula of a structure's JSON; empty where there is none."""
    try:
        return str(need("pymatgen.core").Structure.from_dict(json.loads(text)).composition.reduced_formula)
    except (ValueError, KeyError, TypeError):
        return ""


def fault(text: str) -> str | None:
    """Why a structure of a campaign's pool cannot be used, None where it can."""
    return str(json.loads(text)["error"]) if text.startswith(_FAULT) else None


def prototype(formula: str, parents: Sequence[tuple[str, str]]) -> str:
    """JSON of the first parent's structure that becomes the formula when one element is exchanged; empty if none does.

    Parameters
    ----------
    formula : str
    parents : sequence of (formula, JSON)
    """
    wanted = compositions.read(formula)
    total = sum(wanted.values())
    shares = {symbol: n / total for symbol, n in wanted.items()}
    for _, text in parents:
        structure = load(text, Path())
        own = structure.composition.fractional_composition.get_el_amt_dict()
        gone, come = [s for s in own if s not in shares], [s for s in shares if s not in own]
        if len(gone) != 1 or len(come) != 1 or len(own) != len(shares):
            continue
        renamed = {come[0] if symbol == gone[0] else symbol: n for symbol, n in own.items()}
        if all(abs(renamed[symbol] - share) < 1e-4 for symbol, share in shares.items()):
            structure.replace_species({gone[0]: come[0]})
            return dump(structure)
    return ""


def table_text(header: Sequence[str], rows: Table) -> str:
    """CSV with each row on the line of its number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    line = 2
    for number, cells in rows:
        out.write("\n" * (number - line))
        writer.writerow([cells.get(name, "") for name in header])
        line = number + 1
    return out.getvalue()


def _is_kept(text: str) -> bool:
    """Whether a campaign wrote it: its own form of a structure, or of a fault."""
    return text.startswith((_KEPT, _FAULT))


def _from_file(path: Path) -> Any:
    core = need("pymatgen.core")
    if path.suffix == ".json":
        return core.Structure.from_dict(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix.lower() == ".cif":
        return core.Structure.from_file(path)
    return need("pymatgen.io.vasp").Poscar.from_str(path.read_text(encoding="utf-8")).structure
