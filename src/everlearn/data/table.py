"""A manifest: a CSV or Parquet file with one row for each sample, its path and label and whatever else is known."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from everlearn.data.naming import classes_of
from everlearn.data.pictures import TEST, TRAIN, VALIDATION, Files, Listing
from everlearn.data.regions import Regions
from everlearn.data.text import Texts
from everlearn.errors import UNREADABLE, DataError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
_OPTIONAL = ("time", "task", "site", "patient", "split", "mask")
_SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
}


@dataclass(frozen=True)
class Columns:
    """Names of a manifest's columns.

    Parameters
    ----------
    path, label : str
        Must be there; path not in a table of texts.
    text : str, optional
        The column that holds the samples themselves, as texts. By default ``text``, where there is no path column.
    time, task, site, patient, split, mask : str, optional
        By default a column of that very name is used where there is one; a column named here must be there.

    Examples
    --------
    >>> Columns(label="Finding").label
    'Finding'
    """

    path: str = "path"
    label: str = "label"
    text: str | None = None
    time: str | None = None
    task: str | None = None
    site: str | None = None
    patient: str | None = None
    split: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Rows:
    """A manifest as read: its path column (or another that names the sample) and label as text, the rest typed."""

    keys: list[str]
    labels: list[str]
    times: NDArray[np.float64] | None
    tasks: NDArray[np.int64] | None
    sites: NDArray[np.str_] | None
    patients: NDArray[np.str_] | None
    split: NDArray[np.int8] | None
    masks: list[str | None] | None


def list_table(file: Path, columns: Columns | None = None, root: Path | None = None) -> Listing:
    """List the samples of a manifest, in its order.

    Parameters
    ----------
    file : Path
        ``.csv``, ``.tsv`` (UTF-8, with a line of names, also packed: ``.csv.gz``) or ``.parquet``.
    columns : Columns, optional
        Names of the columns. Times are ISO 8601 (without a zone: UTC) or numbers; tasks whole numbers, or names, which
        then count in natural order; split is ``train``, ``test`` or ``val``; mask is a picture's file, bright where
        the decision should rest (`Regions`), or empty.
    root : Path, optional
        The folder that paths are relative to and that none may leave; by default the manifest's own.

    Raises
    ------
    DataError
        If the file cannot be read, a column is missing, or a cell is empty or makes no sense.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "samples.csv"
    ...     _ = manifest.write_text("path,label,time\\na.png,cat,2024-05-01\\nb.png,dog,2024-05-02\\n")
    ...     listing = list_table(manifest)
    >>> listing.class_names, listing.times.tolist()
    (('cat', 'dog'), [1714521600.0, 1714608000.0])
    """
    columns = columns or Columns()
    if (text := text_column(file, columns)) is not None:
        return _list_texts(file, columns, text)
    rows = read_rows(file, columns, columns.path)
    folder = (root or file.parent).resolve()
    for number, path in enumerate(rows.keys):
        full = os.path.normpath(f"{folder}/{path}" if path[:1] != "/" else path)
        if not full.startswith(str(folder).rstrip("/") + "/"):
            where = f"{file}: row {number + 1} has the path {path!r}"
            raise DataError(f"{where}, outside {folder}; name another root folder, or move the file there")
    return _listing(file, Files(folder, rows.keys), rows.keys, rows)


def _list_texts(file: Path, columns: Columns, text: str) -> Listing:
    """An empty text is no error here: it is put aside when it is read, as a damaged picture is."""
    rows = read_rows(file, columns, text, empty=True)
    names = [f"row {number}" for number in range(1, len(rows.keys) + 1)]
    return _listing(file, Texts(rows.keys, [f"{file}: {name}" for name in names]), names, rows)


def _listing(file: Path, samples: Files | Texts, sample_names: list[str], rows: Rows) -> Listing:
    names, labels = classes_of(rows.labels)
    return Listing(
        name=str(file),
        pictures=samples,
        names=sample_names,
        labels=labels,
        class_names=names,
        split=rows.split,
        times=rows.times,
        tasks=rows.tasks,
        sites=rows.sites,
        patients=rows.patients,
        regions=Regions(samples.root, rows.masks, samples) if rows.masks and isinstance(samples, Files) else None,
    )


def text_column(file: Path, columns: Columns) -> str | None:
    """The column of a table whose samples are texts; None where they are pictures."""
    if columns.text is not None:
        return columns.text
    names = column_names(file)
    return "text" if "text" in names and columns.path not in names else None


def read_texts(file: Path, column: str) -> list[str]:
    """The texts of one column, in the table's order; a table to predict needs no labels."""
    found = column_names(file)
    if column not in found:
        raise DataError(f"{file} has no column {column!r}; it has {', '.join(found) or 'none'}")
    texts = [_text(cell) for cell in _read(file, [column]).column(column).to_pylist()]
    if "" in texts:
        raise DataError(f"{file}: row {texts.index('') + 1} has no text")
    return texts


def column_names(file: Path) -> list[str]:
    """Names of a manifest's columns."""
    import pyarrow.parquet as pq

    with _one_line(file):
        if file.suffix.lower() == ".parquet":
            return list(pq.read_schema(file).names)
        packed = file.suffix.lower() == ".gz"
        with gzip.open(file) if packed else file.open("rb") as raw:
            lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            return next(csv.reader(lines, delimiter=_delimiter(file)), [])


def read_rows(file: Path, columns: Columns, key: str, empty: bool = False) -> Rows:
    """Read a manifest whose column ``key`` names the samples, or holds them and may then be ``empty`` in a row."""
    found = column_names(file)
    wanted = {"key": key, "label": columns.label}
    for name in _OPTIONAL:
        given = getattr(columns, name)
        if given is not None or name in found:
            wanted[name] = given or name
    for name in wanted.values():
        if name not in found:
            hint = "; for texts name their column: text=NAME" if name == Columns.path else ""
            there = ", ".join(found) or "none"
            raise DataError(f"{file} has no column {name!r}; it has {there}: name the right one{hint}")
        if found.count(name) > 1:
            raise DataError(f"{file} has {found.count(name)} columns {name!r}; expected one")
    table = _read(file, list(dict.fromkeys(wanted.values())))
    if table.num_rows == 0:
        raise DataError(f"{file} has no rows; expected one for each sample")

    def typed(name: str, convert: Callable[[Path, str, list[Any]], Any]) -> Any:
        return convert(file, wanted[name], table.column(wanted[name]).to_pylist()) if name in wanted else None

    return Rows(
        keys=typed("key", (lambda *cells: [_text(cell) for cell in cells[2]]) if empty else _filled),
        labels=typed("label", _filled),
        times=typed("time", _times),
        tasks=typed("task", _tasks),
        sites=typed("site", lambda *cells: np.array(_filled(*cells))),
        patients=typed("patient", lambda *cells: np.array([_text(cell) for cell in cells[2]])),
        split=typed("split", _split),
        masks=typed("mask", lambda *cells: [_text(cell) or None for cell in cells[2]]),
    )


def _read(file: Path, names: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    with _one_line(file):
        if file.suffix.lower() == ".parquet":
            return pq.read_table(file, columns=list(names))
        # as text: a column of names that are all digits must keep its leading zeros
        convert = pa.csv.ConvertOptions(include_columns=list(names), column_types={name: pa.string() for name in names})
        parse = pa.csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True)
        return pa.csv.read_csv(file, pa.csv.ReadOptions(use_threads=False), parse, convert)  # so that rows are named


def _filled(file: Path, column: str, cells: list[Any]) -> list[str]:
    texts = [_text(cell) for cell in cells]
    if "" in texts:
        empty = texts.count("")
        raise DataError(
            f"{file}: column {column!r} is empty in {empty} rows, first in row {texts.index('') + 1}; fill it"
        )
    return texts


def _text(cell: Any) -> str:
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():  # whole numbers that lost their type where a cell was empty
        return str(int(cell))
    return str(cell).strip()


def _times(file: Path, column: str, cells: list[Any]) -> NDArray[np.float64]:
    times = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            times[i] = _seconds(cell)
        except (ValueError, TypeError, OverflowError):
            where = f"{file}: row {i + 1}, column {column!r}"
            raise DataError(
                f"{where} has the time {cell!r}; expected ISO 8601 (2024-05-31 or …T12:30) or a number"
            ) from None
    return times


def _seconds(cell: Any) -> float:
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime(cell.year, cell.month, cell.day)
    if isinstance(cell, str):
        try:
            cell = float(cell)
        except ValueError:
            cell = datetime.fromisoformat(cell.strip())
    if isinstance(cell, datetime):
        return (cell if cell.tzinfo else cell.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(float(cell)):
        raise ValueError(cell)
    return float(cell)


def _tasks(file: Path, column: str, cells: list[Any]) -> NDArray[np.int64]:
    texts = _filled(file, column, cells)
    if all(text.lstrip("-").isdecimal() for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return classes_of(texts)[1]


def _split(file: Path, column: str, cells: list[Any]) -> NDArray[np.int8]:
    texts = _filled(file, column, cells)
    other = sorted({text for text in texts if text.lower() not in _SPLITS})
    if other:
        found = ", ".join(other[:5])
        raise DataError(f"{file}: column {column!r} says {found}; expected train, test or val in every row")
    return np.array([_SPLITS[text.lower()] for text in texts], dtype=np.int8)


def _delimiter(file: Path) -> str:
    return "\t" if ".tsv" in file.suffixes[-2:] else ","


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """What the readers raise on a file that is no table becomes one line."""
    import pyarrow as pa

    if file.is_dir():
        raise DataError(f"{file} is a folder; expected a {' or '.join(SUFFIXES)} file")
    try:
        yield
    except (*UNREADABLE, pa.ArrowException, ValueError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise DataError(f"{file}: line {_line_not_utf8(file)} is not UTF-8; save the table as UTF-8") from None
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{file}: cannot be read as a table ({reason})") from None


def _line_not_utf8(file: Path) -> int:
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
