"""DICOM pictures against closed forms, and folders with a table of labels."""

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from everlearn.data import Columns, dicom_to_picture, open_source, read_picture
from everlearn.data.dicom import open_dicom
from everlearn.errors import DataError


def dataset(pixels, bits=12, photometric="MONOCHROME2", signed=False, **tags):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = tags.pop("uid", generate_uid())
    colour = pixels.ndim == 3
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if colour else 1
    if colour:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def save(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def ramp(high=4095, n=64):
    return np.linspace(0, high, n).round().astype(np.uint16).reshape(8, -1)


def lut(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = list(entries)
    item["LUTData"].VR = "US"
    return item


def close(found, expected):
    assert found.dtype == np.uint8
    assert np.abs(found.astype(float) - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_without_a_window_more_than_8_bits_are_stretched(bits):
    x = ramp(2 ** (bits - 2)) + 7
    close(dicom_to_picture(dataset(x, bits)), (x - 7.0) / 2 ** (bits - 2) * 255)


def test_eight_bits_stay_as_they_are():
    x = (ramp(100) + 20).astype(np.uint8)
    assert np.array_equal(dicom_to_picture(dataset(x, 8)), x)


def test_one_value_everywhere_is_black():
    assert not dicom_to_picture(dataset(np.full((4, 4), 900, np.uint16))).any()


def test_signed_values():
    x = ramp().astype(np.int16) - 2000
    close(dicom_to_picture(dataset(x, 16, signed=True)), ramp() / 4095 * 255)


def test_monochrome1_is_inverted():
    x = ramp()
    tags = {"WindowCenter": 2000, "WindowWidth": 1000}
    for more in ({}, tags):
        two, one = (dicom_to_picture(dataset(x, photometric=f"MONOCHROME{k}", **more)) for k in (2, 1))
        assert np.array_equal(one, 255 - two)
    assert dicom_to_picture(dataset(x, photometric="MONOCHROME1"))[0, 0] == 255


@pytest.mark.parametrize("slope, intercept", [(1, 0), (2, -1024), (0.5, 10)])
def test_linear_window_after_rescale(slope, intercept):
    x, centre, width = ramp(), 600.0, 800.0
    y = x.astype(float) * slope + intercept
    made = dataset(x, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=centre, WindowWidth=width)
    close(dicom_to_picture(made), ((y - (centre - 0.5)) / (width - 1) + 0.5) * 255)  # PS3.3 C.11.2.1.2.1


def test_the_first_of_several_windows_counts():
    x = ramp()
    first = dicom_to_picture(dataset(x, WindowCenter=1000, WindowWidth=500))
    assert np.array_equal(dicom_to_picture(dataset(x, WindowCenter=[1000, 3000], WindowWidth=[500, 100])), first)


def test_exact_and_sigmoid_windows():
    x, centre, width = ramp(), 2000.0, 900.0
    exact = dataset(x, WindowCenter=centre, WindowWidth=width, VOILUTFunction="LINEAR_EXACT")
    close(dicom_to_picture(exact), ((x - centre) / width + 0.5) * 255)
    sigmoid = dataset(x, WindowCenter=centre, WindowWidth=width, VOILUTFunction="SIGMOID")
    close(dicom_to_picture(sigmoid), 255 / (1 + np.exp(-4 * (x - centre) / width)))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_voi_lut_goes_before_a_window(bits):
    high = 2**bits - 1
    entries = np.round(high * (np.arange(1000) / 999) ** 2).astype(int)
    x = ramp()
    made = dataset(x, VOILUTSequence=[lut(entries, 500, bits)], WindowCenter=5, WindowWidth=5)
    close(dicom_to_picture(made), entries[np.clip(x.astype(int) - 500, 0, 999)] / high * 255)


def test_a_table_of_words_in_bytes(tmp_path):
    entries = np.arange(4096)[::-1] * 16
    item = lut(entries, 0, 16)
    item["LUTData"].VR = "OW"
    item.LUTData = entries.astype("<u2").tobytes()
    file = save(tmp_path / "a.dcm", dataset(ramp(), VOILUTSequence=[item]))
    close(np.asarray(open_dicom(file)), entries[ramp()] / 65535 * 255)


def test_modality_lut():
    entries = np.arange(4096)[::-1] * 16
    made = dataset(ramp(), ModalityLUTSequence=[lut(entries, 0, 16)], WindowCenter=32768.5, WindowWidth=65536)
    close(dicom_to_picture(made), entries[ramp()] / 65535 * 255)


def test_rgb_and_ybr():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(dicom_to_picture(dataset(pixels, 8, "RGB")), pixels)
    grey = np.stack([ramp(255), np.full((8, 8), 128), np.full((8, 8), 128)], 2).astype(np.uint8)
    assert np.array_equal(dicom_to_picture(dataset(grey, 8, "YBR_FULL")), np.stack([ramp(255)] * 3, 2))


def test_a_palette():
    made = dataset(np.array([[0, 1], [2, 3]], np.uint8), 8, "PALETTE COLOR")
    for name, values in (("Red", [0, 65535, 0, 257]), ("Green", [0, 0, 65535, 514]), ("Blue", [0, 0, 0, 771])):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", np.array(values, "<u2").tobytes())
    expected = [[[0, 0, 0], [255, 0, 0]], [[0, 255, 0], [1, 2, 3]]]
    assert dicom_to_picture(made).tolist() == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"NumberOfFrames": 3}, "holds 3 frames; expected one"),
        ({"Rows": 60000, "Columns": 60000}, "the limit is 50,000,000 pixels"),
        ({"Rows": 9}, "damaged picture"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "Window Width"),
    ],
)
def test_what_cannot_be_shown_gets_one_line(tmp_path, change, message):
    made = dataset(ramp())
    for name, value in change.items():
        setattr(made, name, value)
    file = save(tmp_path / "a.dcm", made)
    with pytest.raises(DataError, match=message) as caught:
        open_dicom(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_file_without_pixels(tmp_path):
    made = dataset(ramp())
    del made.PixelData
    with pytest.raises(DataError, match="holds no picture"):
        open_dicom(save(tmp_path / "a.dcm", made))


def test_a_compression_without_its_package_names_the_package(tmp_path):
    made = dataset(ramp())
    made.file_meta.TransferSyntaxUID = JPEGLSLossless
    made.PixelData = encapsulate([b"\xff\xd8\xff\xf7" + bytes(100)])
    made["PixelData"].VR = "OB"
    file = save(tmp_path / "a.dcm", made)
    try:
        import jpeg_ls  # noqa: F401
        import pylibjpeg  # noqa: F401

        pytest.skip("packages for JPEG-LS are installed")
    except ImportError:
        pass
    with pytest.raises(DataError, match="JPEG-LS Lossless Image Compression cannot be decompressed; install") as caught:
        open_dicom(file)
    assert "pylibjpeg" in str(caught.value) and "\n" not in str(caught.value)


def test_deflated_files_are_refused_before_they_unfold(tmp_path):
    made = dataset(ramp())
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(DataError, match="deflated DICOM is not read"):
        open_dicom(save(tmp_path / "a.dcm", made))


def test_damaged_files_give_a_picture_or_one_line(tmp_path):
    whole = save(tmp_path / "a.dcm", dataset(ramp(), WindowCenter=9, WindowWidth=9)).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: random.integers(133, len(whole) + 1)])
        for place in random.integers(132, len(data), 3):
            data[place] = random.integers(256)
        (tmp_path / "a.dcm").write_bytes(data)
        try:
            assert read_picture(tmp_path / "a.dcm", 1, 8).shape == (1, 8, 8)
        except DataError as error:
            assert "\n" not in str(error)


def folder_of(tmp_path, n=10):
    for i in range(n):
        made = dataset(ramp() + i, uid=f"1.2.{i}", PatientID=f"P{i // 2}")
        save(tmp_path / "dicom" / f"series{i % 2}" / f"im{i}", made)  # as scanners write them: no suffix
    (tmp_path / "dicom" / "README.txt").write_text("not DICOM")
    return tmp_path / "dicom"


def labels(tmp_path, header, rows):
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    return tmp_path / "labels.csv"


def test_labels_by_path_or_bare_name(tmp_path):
    folder = folder_of(tmp_path)
    rows = [f"series{i % 2}/im{i},{'ill' if i % 3 else 'well'}" for i in range(10)]
    source = open_source(folder, labels=labels(tmp_path, "path,label", rows), size=8)
    assert source.class_names == ("ill", "well") and source.shape == (1, 8, 8) and len(source) == 10
    assert source.patients.tolist() == [f"P{i // 2}" for i in range(10)]
    for patient in set(source.patients):
        assert len(set(source.test[source.patients == patient])) == 1
    bare = [f"im{i},{'ill' if i % 3 else 'well'}" for i in range(10)]
    same = open_source(folder, labels=labels(tmp_path, "file,label", bare), size=8)
    assert list(same.names) == list(source.names)


def test_labels_by_uid_with_other_columns(tmp_path):
    folder = folder_of(tmp_path)
    rows = [f"1.2.{i},{'ill' if i % 2 else 'well'},{i},here,train" for i in range(8)] + ["1.2.99,ill,1,here,test"]
    table = labels(tmp_path, "SOPInstanceUID,finding,time,site,split", rows)
    source = open_source(folder, labels=table, columns=Columns(label="finding"))
    assert len(source) == 8  # neither the files without a row nor the row without a file
    assert sorted(source.times.tolist()) == list(range(8))
    assert all(source.names[k].endswith(f"im{int(time)}") for k, time in enumerate(source.times))


def test_labels_by_patient_must_agree(tmp_path):
    folder = folder_of(tmp_path)
    rows = [f"P{p},{'ill' if p % 2 else 'well'}" for p in (0, 1, 2, 2, 3, 4)]
    source = open_source(folder, labels=labels(tmp_path, "PatientID,label", rows))
    assert len(source) == 10 and source.labels.sum() == 6
    with pytest.raises(DataError, match="PatientID P2 has the labels 'well' and 'ill'"):
        open_source(folder, labels=labels(tmp_path, "PatientID,label", [*rows, "P2,ill"]))


def test_a_missing_file_is_quarantined_when_it_is_read(tmp_path):
    folder = folder_of(tmp_path)
    source = open_source(folder, labels=labels(tmp_path, "path,label", ["im0,a", "im1,b", "gone,a"]), size=8)
    with pytest.raises(DataError, match="No such file"):
        source.read(2)


@pytest.mark.parametrize(
    "header, row, message",
    [
        ("name,label", "im0,a", "expected one of path, file, filename, SOPInstanceUID, PatientID"),
        ("SOPInstanceUID,label", "9.9,a", "no SOPInstanceUID in it fits a file"),
        ("path,finding", "im0,a", "has no column 'label'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, header, row, message):
    with pytest.raises(DataError, match=message):
        open_source(folder_of(tmp_path), labels=labels(tmp_path, header, [row]))


def test_folder_without_dicom_and_missing_table(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("text")
    with pytest.raises(DataError, match="holds no DICOM file"):
        open_source(tmp_path / "none", labels=labels(tmp_path, "path,label", ["a,b"]))
    with pytest.raises(DataError, match=r"did you mean labels\.csv"):
        open_source(tmp_path / "none", labels=tmp_path / "label.csv")
    with pytest.raises(DataError, match=r"is a folder; expected a \.csv"):
        open_source(folder_of(tmp_path), labels=tmp_path / "none")


def test_a_class_folder_of_dicom_and_jpeg(tmp_path):
    from PIL import Image

    for c in ("ill", "well"):
        for i in range(3):
            save(tmp_path / c / f"{i}.dcm", dataset(ramp()))
        Image.new("L", (8, 8), 77).save(tmp_path / c / "3.png")
    source = open_source(tmp_path)
    assert source.shape == (1, 8, 8) and (source.read(3) == 77).all()
    assert np.array_equal(source.read(0), read_picture(tmp_path / "ill" / "0.dcm", 1, 8))
