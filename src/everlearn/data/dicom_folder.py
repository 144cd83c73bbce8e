"""A folder of DICOM files and a table that says what each shows."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everlearn.data.dicom import is_dicom, read_header
from everlearn.data.folder import files_below
from everlearn.data.naming import classes_of
from everlearn.data.pictures import Files, Listing
from everlearn.data.table import Columns, Rows, column_names, read_rows
from everlearn.errors import DataError

_FILE_KEYS = ("file", "filename")
_HEADER_KEYS = ("SOPInstanceUID", "PatientID")


def list_dicom(folder: Path, table: Path, columns: Columns | None = None) -> Listing:
    """List the DICOM files of a folder that a table gives a label.

    Rows name files by path (relative to the folder, or a bare name that occurs once), by SOPInstanceUID or by
    PatientID: by the first column that there is of ``columns.path``, ``file``, ``filename``, ``SOPInstanceUID`` and
    ``PatientID``. By the last two, files without a row and rows without a file are left out, and several rows must
    agree. The patient is the table's where it has a patient column, else the PatientID in the file.

    Parameters
    ----------
    folder : Path
        Searched at any depth; what does not begin as a DICOM file is passed over.
    table : Path
        CSV, TSV or Parquet; its other columns are those of a manifest.
    columns : Columns, optional
        Names of the table's columns.

    Raises
    ------
    DataError
        If there is no DICOM file, the table has none of these columns, no row fits a file, or rows disagree.
    """
    columns = columns or Columns()
    root = folder.resolve()
    paths = [path for path in files_below(root) if is_dicom(root / path)]
    if not paths:
        raise DataError(f"{folder} holds no DICOM file; expected files that begin with the DICOM preamble")
    key = _key(table, columns)
    rows = read_rows(table, columns, key)
    headers = [read_header(root / path) for path in paths]
    if key in _HEADER_KEYS:
        row_of = _rows_by_header(table, key, rows)
        found = [header[_HEADER_KEYS.index(key)] for header in headers]
        files = [i for i, name in enumerate(found) if name in row_of]
        picked = np.array([row_of[found[i]] for i in files], dtype=np.int64)
        samples = [paths[i] for i in files]
        if not samples:
            raise DataError(f"{table}: no {key} in it fits a file in {folder}; its first is {rows.keys[0]!r}")
    else:
        samples, picked = _by_path(paths, rows), np.arange(len(rows.keys))
    class_names, labels = classes_of(rows.labels[i] for i in picked)
    patient = dict(zip(paths, (patient for _, patient in headers)))
    own = np.array([patient.get(path, "") for path in samples])
    listing = Listing(str(folder), Files(root, samples), samples, labels, class_names)
    return replace(
        listing,
        split=_pick(rows.split, picked),
        times=_pick(rows.times, picked),
        tasks=_pick(rows.tasks, picked),
        sites=_pick(rows.sites, picked),
        patients=own if rows.patients is None else rows.patients[picked],
    )


def _key(table: Path, columns: Columns) -> str:
    found = column_names(table)
    accepted = (columns.path, *_FILE_KEYS, *_HEADER_KEYS)
    for name in accepted:
        if name in found:
            return name
    raise DataError(f"{table} has the columns {', '.join(found) or 'none'}; expected one of {', '.join(accepted)}")


def _rows_by_header(table: Path, key: str, rows: Rows) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for i, name in enumerate(rows.keys):
        first = row_of.setdefault(name, i)
        if rows.labels[first] != rows.labels[i]:
            both = f"{rows.labels[first]!r} and {rows.labels[i]!r}"
            raise DataError(f"{table}: {key} {name} has the labels {both}; expected one")
    return row_of


def _by_path(paths: list[str], rows: Rows) -> list[str]:
    """Each row's file; a path that is not there stays as it is and is quarantined when read."""
    known = set(paths)
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[Path(path).name].append(path)
    samples = []
    for name in rows.keys:
        path = os.path.normpath(name)
        same = by_name.get(path, [])
        samples.append(same[0] if path not in known and len(same) == 1 else path)
    return samples


def _pick(values: NDArray | None, picked: NDArray[np.int64]) -> NDArray | None:
    return None if values is None else values[picked]
