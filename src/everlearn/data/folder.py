"""A folder of classes: ``DIR/CLASS/*.jpg``, or ``DIR/train/CLASS`` and ``DIR/test/CLASS``, or ``DIR/all/CLASS``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from everlearn.data.decode import SUFFIXES
from everlearn.data.dicom import SUFFIXES as DICOM_SUFFIXES
from everlearn.data.naming import classes_of, natural_key, writable
from everlearn.data.pictures import TEST, TRAIN, VALIDATION, Files, Listing
from everlearn.errors import DataError

_PICTURES = SUFFIXES + DICOM_SUFFIXES
_SPLITS = {"train": TRAIN, "all": TRAIN, "test": TEST, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION}


def list_folder(folder: Path) -> Listing:
    """List the pictures of a folder of classes.

    Pictures are JPEG, PNG, BMP, TIFF, WebP and DICOM files by their suffix, at any depth within the class's folder, in
    natural order. Hidden files and files of other kinds are passed over.

    Parameters
    ----------
    folder : Path
        With one folder for each class; or with ``train`` and ``test`` (or ``val``), or ``all``, which hold these.

    Raises
    ------
    DataError
        If there is no picture, a class's folder is empty, or a link leaves the folder.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("RGB", (8, 8)).save(f"{folder}/{name}/1.png")
    ...     listing = list_folder(Path(folder))
    >>> listing.class_names, list(listing.names)
    (('cat', 'dog'), ['cat/1.png', 'dog/1.png'])
    """
    root = folder.resolve()
    parts = _parts(root)
    paths: list[str] = []
    labels: list[str] = []
    split: list[int] = []
    for part, number in parts:
        for class_folder in _subfolders(part):
            found = [path for path in _below(class_folder, root, []) if path.lower().endswith(_PICTURES)]
            where = class_folder.relative_to(root)
            if writable(class_folder.name) != class_folder.name:
                raise DataError(f"{folder}: the name of the class folder {where} is not UTF-8; rename the folder")
            if not found:
                raise DataError(f"{folder}: the class folder {where} holds no picture; fill it or move it away")
            paths += found
            labels += [class_folder.name] * len(found)
            split += [number] * len(found)
    if not paths:
        raise DataError(f"{folder} holds no class folders with pictures{_what_there_is(root)}")
    class_names, codes = classes_of(labels)
    known = np.array(split, dtype=np.int8) if any(number != TRAIN for number in split) else None
    return Listing(str(folder), Files(root, paths), paths, codes, class_names, known)


def _parts(root: Path) -> list[tuple[Path, int]]:
    """The folders that hold class folders, training first, each with its part of the split."""
    split = [f for f in _subfolders(root) if f.name.lower() in _SPLITS and _subfolders(f)]
    if any(_SPLITS[f.name.lower()] == TRAIN for f in split):
        return sorted(((f, _SPLITS[f.name.lower()]) for f in split), key=lambda part: part[1])
    return [(root, TRAIN)]


def _subfolders(folder: Path) -> list[Path]:
    found = [entry.name for entry in _entries(folder) if entry.is_dir()]
    return [folder / name for name in sorted(found, key=natural_key)]


def files_below(root: Path) -> list[str]:
    """Files at any depth below a resolved folder, relative to it, in natural order, without hidden ones.

    Raises
    ------
    DataError
        If a link leaves the folder or leads back above itself.
    """
    return _below(root, root, [])


def _below(folder: Path, root: Path, above: list[str]) -> list[str]:
    real = _confined(folder, root)
    if real in above:
        raise DataError(f"{folder} is a link to a folder above it; remove the link")
    found: list[str] = []
    for entry in sorted(_entries(folder), key=lambda entry: natural_key(entry.name)):
        if entry.is_dir():
            found += _below(Path(entry.path), root, [*above, real])
        else:
            if entry.is_symlink():
                _confined(Path(entry.path), root)
            found.append(os.path.relpath(entry.path, root))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


def _confined(path: Path, root: Path) -> str:
    real = os.path.realpath(path)
    if real != str(root) and not real.startswith(str(root).rstrip(os.sep) + os.sep):
        raise DataError(f"{path} is a link that leaves {root}; put the files into the folder")
    return real


def _what_there_is(root: Path) -> str:
    """The end of the line for an empty folder: what lies in it, what is expected."""
    expected = "expected DIR/CLASS/*.jpg (or png, bmp, tif, webp, dcm)"
    entries = _entries(root)
    files = [entry.name for entry in entries if entry.is_file()]
    if any(name.lower().endswith(DICOM_SUFFIXES) for name in files):
        return f", but DICOM files; {expected}, or a CSV of labels beside the DICOM files"
    if any(name.lower().endswith(SUFFIXES) for name in files):
        return f", but pictures without a class; {expected}"
    if not entries:
        return f": it is empty; {expected}"
    return f"; {expected}"
