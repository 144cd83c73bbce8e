"""Published and measured runs as cases to predict: five CSV formats, recognised by their header.

What a row leaves out gets a default, documented at its reader. A row that cannot be predicted is kept with the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from everlearn.errors import SettingError
from everlearn.scaling.plan.published import bloom, bridge, runs, vtrain
from everlearn.scaling.plan.published.cases import Case, Refused, Row

__all__ = ["Case", "Refused", "read_cases"]

FORMATS = {"vtrain": vtrain, "bloom": bloom, "bridge": bridge, "runs": runs}


def read_cases(path: str | Path) -> tuple[str, list[Case | Refused]]:
    """Read a CSV of runs; of the formats it has the one most of whose columns are there.

    Returns
    -------
    format : str
        vtrain, bloom, bridge or runs.
    cases : list
        One for each row, in order.

    Raises
    ------
    SettingError
        If the file cannot be read, is empty, or has none of the known headers.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingError(f"cannot read {path.name}: {reason}; expected a CSV file of runs") from None
    rows = csv.reader(lines)
    try:
        header = _unique(next(rows, []))
        table = [dict(zip(header, (cell.strip() for cell in row))) for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise SettingError(f"cannot read {path.name}: {error}; expected a CSV file of runs") from None
    covered = {kind: len(form.COLUMNS & set(header)) / len(form.COLUMNS) for kind, form in FORMATS.items()}
    kind = max(covered, key=lambda name: covered[name])
    if covered[kind] > 0.5:
        if not table:
            raise SettingError(f"{path.name} has a header but no rows; expected at least one run")
        empty = dict.fromkeys(FORMATS[kind].COLUMNS, "")
        return kind, [_guarded(FORMATS[kind].read, empty | row, number) for number, row in enumerate(table, 2)]
    if not header:
        raise SettingError(f"{path.name} is empty; expected a CSV file of runs")
    known = "; ".join(f"{kind}: {', '.join(sorted(form.COLUMNS))}" for kind, form in FORMATS.items())
    raise SettingError(f"{path.name} has columns {', '.join(header[:4])} …; expected those of a known format ({known})")


def _unique(header: list[str]) -> list[str]:
    """Column names; a second column of the same name gets a number, as megatron_bridge_perf.csv has two of 'Model'."""
    seen: list[str] = []
    for name in (h.strip() for h in header):
        seen.append(f"{name}.{seen.count(name)}" if name in seen else name)
    return seen


def _guarded(reader: Callable[[Row, str], Case], row: Row, number: int) -> Case | Refused:
    name = row.get("id") or row.get("line") or str(number)
    try:
        return reader(row, name)
    except (SettingError, ValueError, KeyError) as error:
        return Refused(name, str(error))
    except ArithmeticError as error:
        return Refused(name, f"its sizes make no model or layout ({error})")
