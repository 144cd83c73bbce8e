"""Tables as people save them: CSV with commas, semicolons or tabs, packed or not."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

from everlearn.errors import UNREADABLE, DataError

SURPLUS = "\0surplus"
"""Under this name a row says why it does not fit its header, where it does not."""


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns and rows of a CSV (also ``.gz``); each row with its line's number.

    Raises
    ------
    DataError
        If it cannot be read, or has no header or a column twice.
    """
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text; save the table as CSV UTF-8") from error
    except UNREADABLE as error:
        raise DataError(f"cannot read {file}: {error}; allow reading it, or copy it anew") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise DataError(f"{file} is empty; expected a header line and one candidate a row")
        twice = {name for name in header if name and header.count(name) > 1}
        if twice:
            raise DataError(f"{file} has the column {min(twice)!r} twice; rename one")
        rows = []
        for number, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                rows.append((number, dict(zip(header, cells + [""] * (len(header) - len(cells))))))
                if any(cell.strip() for cell in cells[len(header) :]):
                    rows[-1][1][SURPLUS] = (
                        f"it has {len(cells)} cells for {len(header)} columns; quote what holds a comma"
                    )
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}: {error}; close the quotes of each cell that has some"
        ) from error
    return header, rows


def _delimiter(text: str) -> str:
    head = text.split("\n", 1)[0]
    return max(",;\t", key=head.count)
