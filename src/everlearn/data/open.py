"""Opening a source, whatever it is: a folder, a manifest, an array file, DICOM, or a name."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everlearn.data.builtin import list_builtin
from everlearn.data.decode import SUFFIXES, Shape, is_grey
from everlearn.data.dicom import SUFFIXES as DICOM_SUFFIXES
from everlearn.data.dicom_folder import list_dicom
from everlearn.data.folder import list_folder
from everlearn.data.holdout import hold_out
from everlearn.data.named import list_medmnist, list_torchvision
from everlearn.data.npz import list_npz
from everlearn.data.pictures import TEST, TRAIN, VALIDATION, Listing, read_file
from everlearn.data.regions import regions_of_folder
from everlearn.data.source import Source
from everlearn.data.table import SUFFIXES as TABLE_SUFFIXES
from everlearn.data.table import Columns, list_table
from everlearn.data.text import Texts
from everlearn.errors import DataError, SettingError

_KINDS = "a folder of classes, .csv, .tsv, .parquet, .npz, builtin:digits, torchvision:NAME or medmnist:NAME"
_LOOKED_AT = 32  # readable pictures that decide size and colour
_TRIED = 256  # pictures tried before a source counts as unreadable
_LARGEST_OWN = 256  # pixels a side up to which the pictures' own common size is kept
_USUAL = 224


def open_source(
    spec: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    root: str | Path | None = None,
    columns: Columns | None = None,
    labels: str | Path | None = None,
    least: int = 2,
    regions: bool = False,
) -> Source:
    """Open a source of samples.

    Parameters
    ----------
    spec : str or Path
        A folder of classes; a manifest or a table of texts (CSV, TSV, Parquet); an ``.npz`` with MedMNIST's keys; a
        folder of DICOM files with ``labels``; ``builtin:digits``; ``torchvision:NAME``; ``medmnist:NAME``.
    size : int, optional
        Pixels a side of every picture as it is read. By default the pictures' own, where a fixed sample of 32 are equal
        squares of at most 256, else 224. Of texts the bytes that are kept of each, by default the longest's, at most
        1024.
    channels : int, optional
        1 or 3. By default 1 if all pictures of that sample are grey, else 3.
    holdout : float
        Share of every class held out, at least one sample where the class has two; whole patients together where they
        are known, and spread evenly over sites or else tasks. A source with a test part of its own keeps that; with
        train, validation and test parts, validation is left aside; with train and validation, that is the test part.
    seed : int
        Of the hold-out.
    root : str or Path, optional
        For a manifest the folder its paths are relative to; for a named set where its files lie.
    columns : Columns, optional
        Names of the columns of a manifest or of ``labels``.
    labels : str or Path, optional
        For a folder of DICOM files the table that says what each shows.
    least : int
        Classes that there must be: 2, or 1 for a source to go on with or to evaluate on.
    regions : bool
        Whether to look where in its picture each sample's decision should rest: in the ``meta.jsonl`` of a folder of
        classes (`regions_of_folder`), in the column ``mask`` of a manifest. The source's are None where there are none.

    Raises
    ------
    DataError
        If there is no such source, it is empty, has fewer classes than that, or none of its pictures can be read.
    SettingError
        If an option is out of range or does not fit the source.

    Examples
    --------
    >>> source = open_source("builtin:digits")
    >>> source.shape, len(source), int(source.test.sum())
    ((1, 8, 8), 1797, 359)
    """
    _check(size, channels, holdout)
    listing = _list(str(spec), _path(root), columns, _path(labels))
    if not regions:
        listing = replace(listing, regions=None)
    elif listing.regions is None and Path(spec).is_dir() and not isinstance(listing.pictures, Texts):
        listing = replace(listing, regions=regions_of_folder(Path(spec), listing.names, listing.pictures))
    listing = _without_validation(listing)
    if len(listing.class_names) < least:
        only = repr(listing.class_names[0])
        raise DataError(f"{listing.name} has one class only, {only}; expected two or more to tell apart")
    return listing.to_source(_shape(listing, size, channels), _test(listing, holdout, seed))


def reshaped(source: Source, channels: int, size: int) -> Source:
    """A source from `open_source`, read in another shape; nothing is listed or looked at again.

    Examples
    --------
    >>> larger = reshaped(open_source("builtin:digits"), channels=3, size=16)
    >>> larger.shape, larger.read(0).shape
    ((3, 16, 16), (3, 16, 16))
    """
    _check(size, channels, 0)
    assert isinstance(source.read, partial)
    shape = (1, 1, size) if source.text else (channels, size, size)
    return replace(source, shape=shape, read=partial(source.read.func, shape=shape))


def read_picture(path: str | Path, channels: int, size: int) -> NDArray[np.uint8]:
    """Read one file of any supported kind: JPEG, PNG, BMP, TIFF, WebP or DICOM.

    Parameters
    ----------
    path : str or Path
        The file.
    channels, size : int
        1 or 3, and pixels a side.

    Returns
    -------
    array of uint8
        ``[C, H, W]``, as a source of that shape reads it.

    Raises
    ------
    DataError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 30)).save(folder + "/a.png")
    ...     read_picture(folder + "/a.png", channels=1, size=28).shape
    (1, 28, 28)
    """
    _check(size, channels, 0)
    return read_file(path, (channels, size, size))


def _list(spec: str, root: Path | None, columns: Columns | None, labels: Path | None) -> Listing:
    kind, colon, name = spec.partition(":")
    if colon and kind in ("builtin", "torchvision", "medmnist"):
        _unused(spec, columns=columns, labels=labels, root=root if kind == "builtin" else None)
        if kind == "builtin":
            return list_builtin(name)
        return list_torchvision(name, root) if kind == "torchvision" else list_medmnist(name, root)
    path = Path(spec).expanduser()
    if not path.exists():
        raise DataError(f"{spec} does not exist{_nearest(path)}")
    suffix = next((end for end in (*TABLE_SUFFIXES, ".npz") if path.name.lower().endswith(end)), path.suffix.lower())
    if path.is_dir():
        _unused(spec, root=root, columns=None if labels else columns)
        if labels is not None:
            return list_dicom(path, _existing(labels), columns)
        if suffix in (*TABLE_SUFFIXES, ".npz"):
            raise DataError(f"{spec} is a folder; expected a {suffix} file")
        return list_folder(path)
    _unused(spec, labels=labels)
    if suffix in TABLE_SUFFIXES:
        return list_table(path, columns, root)
    _unused(spec, root=root, columns=columns)
    if suffix == ".npz":
        return list_npz(path)
    what = "one picture" if suffix in SUFFIXES + DICOM_SUFFIXES else "a file of another kind"
    raise DataError(f"{spec} is {what}; expected {_KINDS}")


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist{_nearest(path)}")
    return path


def _unused(spec: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise SettingError(f"{name} is given, but {spec} has no use for it; leave it out")


def _nearest(path: Path) -> str:
    """The end of the line for a missing path: names in the same folder that come near."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f", nor does the folder {folder}"
    try:
        there = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        there = []
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else f"; expected {_KINDS}"


def _check(size: int | None, channels: int | None, holdout: float) -> None:
    if size is not None and not 1 <= size <= 4096:
        raise SettingError(f"size is {size}; expected 1 to 4096 pixels a side")
    if channels not in (None, 1, 3):
        raise SettingError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if not 0 <= holdout < 1:
        raise SettingError(f"holdout is {holdout}; expected a share from 0 up to, not including, 1")


def _without_validation(listing: Listing) -> Listing:
    """The validation part stands in for a missing test part; where there are both it is left aside."""
    split = listing.split
    if split is None or not (split == VALIDATION).any():
        return listing if split is None or (split == TEST).any() else replace(listing, split=None)
    if not (split == TEST).any():
        return replace(listing, split=np.where(split == VALIDATION, TEST, split).astype(np.int8))
    return listing.select(np.flatnonzero(split != VALIDATION))


def _shape(listing: Listing, size: int | None, channels: int | None) -> Shape:
    """What is not given is decided by a fixed sample of pictures; one at least must be readable."""
    if isinstance(listing.pictures, Texts):
        if channels == 3:
            raise SettingError(f"channels is 3, but {listing.name} holds texts; leave it out")
        return 1, 1, size or listing.pictures.length
    needed = 1 if size and channels else _LOOKED_AT
    sizes: list[tuple[int, int]] = []
    grey, first_error = True, ""
    for i in _spread(len(listing), _TRIED):
        try:
            image = listing.pictures.look(i)
            grey = grey and is_grey(image)
        except DataError as error:
            first_error = first_error or str(error)
            continue
        sizes.append(image.size)
        if len(sizes) == needed:
            break
    if not sizes:
        tried = min(len(listing), _TRIED)
        raise DataError(f"{listing.name}: of {tried} pictures tried none can be read; the first: {first_error}")
    if size is None:
        width, height = sizes[0]
        size = width if len(set(sizes)) == 1 and width == height <= _LARGEST_OWN else _USUAL
    return channels or (1 if grey else 3), size, size


def _spread(n: int, count: int) -> list[int]:
    """Up to ``count`` positions of n in van der Corput's order: any first few of them are spread over the whole."""
    count = min(n, count)
    bits = max(1, (count - 1).bit_length())
    turned = (int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits))
    return [k * n // count for k in turned if k < count]


def _test(listing: Listing, holdout: float, seed: int) -> NDArray[np.bool_]:
    if listing.split is not None:
        if not (listing.split == TRAIN).any():
            raise DataError(f"{listing.name} has a test part only; expected samples to learn as well")
        return listing.split == TEST
    strata = listing.tasks if listing.sites is None else np.unique(listing.sites, return_inverse=True)[1]
    return hold_out(listing.labels, holdout, seed=seed, patients=listing.patients, strata=strata)
