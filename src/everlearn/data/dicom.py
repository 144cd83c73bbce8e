"""DICOM: pictures as a viewer shows them, and a folder of files with a table of labels.

DICOM Standard, Part 3: C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3 (pixels).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everlearn.data.decode import MAX_BYTES, MAX_PIXELS, check_file, check_pixels, one_line
from everlearn.errors import DataError

if TYPE_CHECKING:  # pydicom takes half a second to import: only where a DICOM file is read
    from pydicom.dataset import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")
_HEADER = ["SOPInstanceUID", "PatientID"]


def dicom_to_picture(dataset: Dataset) -> NDArray[np.uint8]:
    """Picture of a DICOM dataset, as a viewer shows it at first.

    Grey: the modality LUT or rescale, then the first VOI LUT or else the first window. Without either, more than 8 bits
    are stretched from the picture's smallest value to its largest, since few pictures use the range that their bits
    allow, and 8 bits stay as they are. MONOCHROME1 is inverted: white is always more. Colour (RGB,
    YBR, palette) becomes RGB.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        One frame; several are refused, since which one the label speaks of is not known.

    Returns
    -------
    array of uint8
        ``[H, W]``, or ``[H, W, 3]`` for colour.

    Raises
    ------
    DataError
        If there are no pixels, too many, several frames, or they cannot be decompressed; then the line says which
        package would.

    Examples
    --------
    >>> from pydicom.examples import get_path
    >>> from pydicom import dcmread
    >>> picture = dicom_to_picture(dcmread(get_path("ct")))
    >>> picture.shape, picture.dtype
    ((128, 128), dtype('uint8'))
    """
    from pydicom.pixels import apply_color_lut

    name = str(getattr(dataset, "filename", None) or "DICOM dataset")
    with one_line(name):
        _check(name, dataset)
        pixels = _decompressed(name, dataset)
        if dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return _grey(pixels, dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
            return _to_bytes(pixels, 0, 2 ** (8 * pixels.dtype.itemsize) - 1)
        return _to_bytes(pixels, 0, 2**dataset.BitsStored - 1)


def open_dicom(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Image.Image:
    """Picture of a DICOM file."""
    from pydicom import dcmread

    check_file(path, max_bytes)
    with one_line(path):
        _check_syntax(path)
        return Image.fromarray(dicom_to_picture(dcmread(path)))


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins as the DICOM standard says (Part 10)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: str | Path) -> tuple[str, str]:
    """SOPInstanceUID and PatientID; empty where the file does not say or cannot be read."""
    from pydicom import dcmread

    try:
        check_file(path)
        with one_line(path):
            _check_syntax(path)
            header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
            return str(header.get("SOPInstanceUID", "")).strip(), str(header.get("PatientID", "")).strip()
    except DataError:  # the sample is quarantined, with the reason, when its picture is read
        return "", ""


def is_burnt_in(path: str | Path) -> bool:
    """Whether a file says that its pixels hold text that identifies a person (Burned In Annotation, PS3.3 C.7.6.1)."""
    from pydicom import dcmread

    with one_line(path):
        header = dcmread(path, stop_before_pixels=True, specific_tags=["BurnedInAnnotation"])
        return str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"


def _check_syntax(path: str | Path) -> None:
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(os.fspath(path)).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise DataError(f"{path}: deflated DICOM is not read, since it can unfold to any size; save it uncompressed")


def _check(name: str, dataset: Dataset) -> None:
    missing = [key for key in ("PixelData", "Rows", "Columns", "PhotometricInterpretation") if key not in dataset]
    if missing:
        raise DataError(f"{name}: the DICOM file holds no picture (it has no {', '.join(missing)})")
    check_pixels(name, int(dataset.Columns), int(dataset.Rows), MAX_PIXELS)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"{name}: the DICOM file holds {frames} frames; expected one: export the frame that is meant")


def _decompressed(name: str, dataset: Dataset) -> NDArray[np.generic]:
    """Stored values, ``[H, W]`` or ``[H, W, 3]``; YBR comes as RGB."""
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset)
    except RuntimeError as error:
        needs = [line.partition(" - requires ")[2] for line in str(error).splitlines() if " - requires " in line]
        if not needs:
            raise
        kind = dataset.file_meta.TransferSyntaxUID.name
        raise DataError(f"{name}: {kind} cannot be decompressed; install {', or '.join(needs)}") from None


def _grey(pixels: NDArray[np.generic], dataset: Dataset) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_rescale, apply_windowing

    low, high = _range(dataset)
    if dataset.get("ModalityLUTSequence"):
        values = _look_up(pixels, dataset.ModalityLUTSequence[0], dataset)
    else:
        values = apply_rescale(pixels, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        values = _look_up(values, table, dataset)
        low, high = 0, 2 ** int(table.LUTDescriptor[2]) - 1
    elif "WindowCenter" in dataset and "WindowWidth" in dataset:
        values = apply_windowing(values, dataset)
    elif dataset.BitsStored > 8 or dataset.PixelRepresentation:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = min(low, high), max(low, high)  # a negative slope inverts
    picture = _to_bytes(values, low, high)
    return 255 - picture if dataset.PhotometricInterpretation == "MONOCHROME1" else picture


def _look_up(values: NDArray[np.generic], table: Dataset, dataset: Dataset) -> NDArray[np.int64]:
    """Values through a table (PS3.3 C.11.1.1): those outside take its first or last entry.

    pydicom's own goes wrong at tables of 8 bits with more than 256 entries.
    """
    n, first, _ = (int(number) for number in table.LUTDescriptor)
    n = n or 2**16
    entries = table.LUTData
    if isinstance(entries, bytes):  # 16-bit words in the file's byte order, or packed bytes
        word = (
            "u1" if len(entries) < 2 * n else "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
        )
        entries = np.frombuffer(entries, word)
    entries = np.atleast_1d(np.asarray(entries)).astype(np.int64)[:n]
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)]


def _range(dataset: Dataset) -> tuple[float, float]:
    """What the smallest and the largest value that can be stored become by the modality LUT; windows map onto that."""
    if dataset.get("ModalityLUTSequence"):
        return 0, 2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        return low * slope + intercept, high * slope + intercept
    return low, high


def _to_bytes(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values.astype(np.float64) - low) * (255 / (high - low) if high != low else 0)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
