"""An explanation as a DICOM secondary capture, which any viewer shows beside the picture it explains."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from everlearn.errors import RunError

_KEPT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def secondary_capture(picture: NDArray[np.uint8], words: str, file: Path, origin: Path | None = None) -> Path:
    """Write ``[H, W, 3]`` as a secondary capture, in the patient and study of the DICOM file it explains.

    Parameters
    ----------
    picture : array of uint8
        ``[H, W, 3]``, colours as they are to be seen.
    words : str
        What the explanation says; goes into the image comments.
    file : Path
        Where to write.
    origin : Path, optional
        The DICOM file explained; without it, patient and study are empty and new.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    _identify(out, origin)
    now = datetime.datetime.now()
    out.SOPClassUID, out.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    out.Modality, out.ConversionType = "OT", "WSD"
    out.SeriesInstanceUID, out.SeriesNumber, out.InstanceNumber = generate_uid(prefix=None), 9001, 1
    out.SeriesDescription = "Everlearn: heat map"
    out.ContentDate, out.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    out.ImageType = ["DERIVED", "SECONDARY"]
    out.SpecificCharacterSet = "ISO_IR 192"
    out.ImageComments = words[:10240]
    out.Rows, out.Columns = picture.shape[:2]
    out.SamplesPerPixel, out.PhotometricInterpretation, out.PlanarConfiguration = 3, "RGB", 0
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 8, 8, 7, 0
    pixels = np.ascontiguousarray(picture, dtype=np.uint8).tobytes()
    out.PixelData = pixels + b"\0" * (len(pixels) % 2)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        out.save_as(file, enforce_file_format=True)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}") from error
    return file


def _identify(out: Dataset, origin: Path | None) -> None:
    """Patient and study of the original, and a reference to it."""
    source = Dataset() if origin is None else pydicom.dcmread(origin, stop_before_pixels=True)
    for name in _KEPT:
        setattr(out, name, source.get(name, ""))
    if "BurnedInAnnotation" in source:  # the heat map lies over the original's pixels, with what they show
        out.BurnedInAnnotation = source.BurnedInAnnotation
    if not out.StudyInstanceUID:
        out.StudyInstanceUID = generate_uid(prefix=None)
    if "SOPInstanceUID" in source and "SOPClassUID" in source:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        out.SourceImageSequence = [item]
