"""Array files with MedMNIST's keys: ``train_images``, ``train_labels``, and the same for ``val`` and ``test``.

Yang et al. 2023, *MedMNIST v2: A large-scale lightweight benchmark for 2D and 3D biomedical image classification*
(arXiv 2110.14795).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everlearn.data.naming import classes_of
from everlearn.data.pictures import TEST, TRAIN, VALIDATION, Arrays, Listing
from everlearn.errors import DataError

MAX_BYTES = 4 * 2**30
_PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}


def list_npz(file: Path, class_names: Sequence[str] | None = None, *, max_bytes: int = MAX_BYTES) -> Listing:
    """List the pictures of an array file, which are then held in memory.

    Parameters
    ----------
    file : Path
        ``.npz`` with ``train_images`` of uint8 ``[N, H, W]`` or ``[N, H, W, 3]``, ``train_labels`` of whole numbers
        ``[N]`` or ``[N, 1]``, and, if there are, the same for ``val_`` and ``test_``.
    class_names : sequence of str, optional
        Of labels 0, 1, …; by default the numbers themselves.
    max_bytes : int
        Arrays larger than this together are refused before any is read.

    Raises
    ------
    DataError
        If the file is no such file, has more than one label for a picture, other pictures than these, or is too large.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     images, labels = np.zeros((4, 28, 28), np.uint8), np.array([[0], [1], [1], [0]])
    ...     np.savez(folder + "/some.npz", train_images=images, train_labels=labels)
    ...     listing = list_npz(Path(folder) / "some.npz", ["normal", "pneumonia"])
    >>> listing.class_names, listing.labels.tolist()
    (('normal', 'pneumonia'), [0, 1, 1, 0])
    """
    arrays = _load(file, max_bytes)
    if "train_images" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise DataError(f"{file} has {found}; expected train_images, train_labels and so on, as MedMNIST names them")
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    split: list[NDArray[np.int8]] = []
    names: list[str] = []
    for part, number in _PARTS.items():
        if f"{part}_images" in arrays:
            images.append(_images(file, part, arrays))
            labels.append(_labels(file, part, arrays, len(images[-1])))
            split.append(np.full(len(images[-1]), number, dtype=np.int8))
            names += [f"{part}[{i}]" for i in range(len(images[-1]))]
    codes = np.concatenate(labels)
    if class_names is None:
        class_names, codes = classes_of(str(code) for code in codes)
    elif len(codes) and not 0 <= codes.min() <= codes.max() < len(class_names):
        raise DataError(f"{file} has labels {codes.min()} to {codes.max()}; expected 0 to {len(class_names) - 1}")
    return Listing(
        name=str(file),
        pictures=Arrays(tuple(images)),
        names=names,
        labels=codes,
        class_names=tuple(class_names),
        split=np.concatenate(split) if len(split) > 1 else None,
    )


def _load(file: Path, max_bytes: int) -> dict[str, NDArray[np.generic]]:
    """The wanted arrays; what their headers state is checked before one is read, so that no file fills the memory."""
    wanted = [f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels")]
    try:
        with zipfile.ZipFile(file) as archive:
            headers = {name.removesuffix(".npy"): _header(archive, name) for name in archive.namelist()}
        total = sum(prod(shape) * dtype.itemsize for name, (shape, dtype) in headers.items() if name in wanted)
        if total > max_bytes:
            raise DataError(f"{file}: its arrays take {total:,} bytes; the limit is {max_bytes:,}: use a class folder")
        with np.load(file, allow_pickle=False) as held:
            return {name: held[name] if name in wanted else np.zeros(0) for name in headers}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged bytes
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{file}: cannot be read as .npz ({reason})") from None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def _images(file: Path, part: str, arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    images = arrays[f"{part}_images"]
    colour = images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (images.ndim == 3 or colour) or 0 in images.shape[1:]:
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{file}: {part}_images is {found}; expected uint8 [N, H, W] or [N, H, W, 3]")
    return images  # type: ignore[return-value]


def _labels(file: Path, part: str, arrays: dict[str, NDArray[np.generic]], n: int) -> NDArray[np.int64]:
    labels = arrays.get(f"{part}_labels")
    if labels is None:
        raise DataError(f"{file} has {part}_images but no {part}_labels; expected both")
    if labels.ndim == 2 and labels.shape[1] > 1:
        found = f"{labels.shape[1]} labels for each picture"
        raise DataError(f"{file}: {part}_labels has {found}; expected one, several at once cannot be learned")
    if labels.dtype.kind not in "iub" or labels.ndim not in (1, 2) or labels.size != n:
        found = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{file}: {part}_labels is {found} for {n} pictures; expected whole numbers [{n}] or [{n}, 1]")
    return labels.reshape(-1).astype(np.int64)
