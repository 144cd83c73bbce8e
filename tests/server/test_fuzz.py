"""Whatever is sent or listed gives a picture, a source, or one line: DICOM, images, manifests, damaged and hostile.

EVERLEARN_FUZZ=20000 looks longer than the few tries of every test run.
"""

import io
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from everlearn.data import open_source
from everlearn.errors import DataError, EverlearnError
from everlearn.server.cases import Cases

TRIES = int(os.environ.get("EVERLEARN_FUZZ", "60"))
QUICK = settings(
    max_examples=TRIES,
    deadline=None,
    derandomize=TRIES == 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHAPE = (1, 8, 8)
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "Jane Doe"


@pytest.fixture(scope="module")
def reader():
    """A server's reader of what is sent, without a server."""
    cases = object.__new__(Cases)
    cases.shape, cases.salt = SHAPE, b"salt"
    return cases


def read(reader, content):
    """The picture, or None where the reader refuses in one line."""
    try:
        picture, shown, patient = reader.read(content)
    except DataError as error:
        assert "\n" not in str(error) and "everlearn-" not in str(error)
        return None
    assert picture.shape == SHAPE and picture.dtype == np.uint8
    assert Image.open(io.BytesIO(shown)).info == {} and (patient is None or patient.startswith("p-"))
    return picture


def dicom(photometric="MONOCHROME2", dtype="<u2", bits=12, syntax=ExplicitVRLittleEndian):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    colours = 3 if photometric in ("RGB", "YBR_FULL") else 1
    made.PatientID, made.PatientName = "id-of-jane", "Doe^Jane"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 12, 10, colours, photometric
    made.PlanarConfiguration, made.PixelRepresentation = 0, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * np.dtype(dtype).itemsize, bits, bits - 1
    pixels = (np.arange(120 * colours) % 2**bits).astype(dtype)
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    made.WindowCenter, made.WindowWidth, made.RescaleSlope, made.RescaleIntercept = 1000, 400, 1, -1024
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], [0, 1, 2, 3]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    if photometric == "MONOCHROME1":
        made.VOILUTSequence = [table]
    if photometric == "PALETTE COLOR":
        for colour in ("Red", "Green", "Blue"):
            setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(made, f"{colour}PaletteColorLookupTableData", bytes(512))
    if syntax == RLELossless:
        made.compress(RLELossless)
    return made


def as_bytes(made):
    held = io.BytesIO()
    made.save_as(held, enforce_file_format=True)
    return held.getvalue()


KINDS = [
    dicom(), dicom("MONOCHROME1"), dicom("RGB", "u1", 8), dicom("YBR_FULL", "u1", 8), dicom("PALETTE COLOR", "u1", 8),
    dicom(syntax=RLELossless),
]  # fmt: skip
WHOLE = [as_bytes(made) for made in KINDS]
NUMBERS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
           "PlanarConfiguration")  # fmt: skip
TEXTS = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames",
         "PhotometricInterpretation", "PatientID", "SpecificCharacterSet", "VOILUTFunction")  # fmt: skip


def damaged(content, draw):
    """Some bytes replaced, some cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))])


@st.composite
def hostile_dicom(draw):
    """A DICOM file with senseless values in what decides how its pixels are read, or with damaged bytes."""
    made = dcmread(io.BytesIO(draw(st.sampled_from(WHOLE))))
    for name in draw(st.lists(st.sampled_from(NUMBERS + TEXTS), max_size=3, unique=True)):
        if draw(st.integers(0, 5)) == 0 and name in made:
            del made[name]
        elif name in NUMBERS:
            setattr(made, name, draw(st.sampled_from([0, 1, 2, 7, 8, 9, 16, 32, 64, 4096, 65535])))
        else:
            values = [
                "",
                "0",
                "1e308",
                "-1e308",
                "nan",
                "1\\2\\3",
                "x" * 300,
                "ISO_IR 999",
                "\x1b$)C",
                "SIGMOID",
                "RGB",
            ]
            value, kind = draw(st.sampled_from(values)), made[name].VR if name in made else "LO"
            try:
                made.add_new(name, kind, value)
            except ValueError:  # no such number: as a text then
                made.add_new(name, "LO", value)
    if draw(st.booleans()):
        table = made.VOILUTSequence[0] if "VOILUTSequence" in made else made
        names = [name for name in table.dir("Descriptor", "LUTData", "LookupTableData") if name in table]
        for name in names[:2]:
            table[name].value = draw(
                st.sampled_from([[0, 0, 0], [1], [65535, 65535, 16], b"", b"\xff" * 7, [4, 9, 99]])
            )
    try:
        content = as_bytes(made)
    except Exception:  # pydicom refuses to write it
        content = draw(st.sampled_from(WHOLE))
    return damaged(content, draw)


def test_what_is_whole_is_read(reader):
    assert all(read(reader, content) is not None for content in WHOLE)


@QUICK
@given(content=hostile_dicom())
def test_hostile_dicom_gives_a_picture_or_one_line(reader, content):
    read(reader, content)


@st.composite
def hostile_image(draw):
    held = io.BytesIO()
    mode = draw(st.sampled_from(["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "F"]))
    kind = draw(st.sampled_from(["PNG", "TIFF", "JPEG", "BMP", "WEBP", "GIF"]))
    try:
        Image.new(mode, (draw(st.integers(1, 40)), draw(st.integers(1, 40)))).save(held, kind, exif=EXIF)
    except (OSError, ValueError, KeyError):
        return draw(st.binary(max_size=200))
    return damaged(held.getvalue(), draw)


@QUICK
@given(content=hostile_image())
def test_hostile_images_give_a_picture_or_one_line(reader, content):
    read(reader, content)


CELL = st.sampled_from(
    ["a.png", "../../etc/passwd", "/etc/passwd", "", " ", "b.png", "cat", "dog", "train", "test", "1e999", "nan", "\0",
     "2024-05-01", "9999-12-31T23:59:59+14:00", '"', "é" * 300, "\u202e", "-1", "0x10", "=cmd()"]
)  # fmt: skip
NAME = st.sampled_from(["path", "label", "time", "task", "site", "patient", "split", "", "path", "Label"])


@st.composite
def manifest(draw):
    head = draw(st.one_of(st.just(["path", "label", "time", "task"]), st.lists(NAME, max_size=7)))
    rows = [head, *draw(st.lists(st.lists(CELL, max_size=8), max_size=6))]
    separator = draw(st.sampled_from([",", "\t", ";"]))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(separator.join(row) for row in rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
    return damaged(text.encode(encoding) or b"x", draw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("manifests")
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 50).save(root / name)
    return root


@QUICK
@given(content=manifest(), suffix=st.sampled_from(["csv", "tsv", "parquet"]))
def test_hostile_manifests_give_a_source_or_one_line(folder, content, suffix):
    file = folder / f"list.{suffix}"
    file.write_bytes(content)
    try:
        source = open_source(file, least=1)
    except EverlearnError as error:
        assert "\n" not in str(error)
        return
    for i in range(len(source)):
        try:
            assert source.read(i).dtype == np.uint8
        except DataError as error:
            assert "\n" not in str(error)
