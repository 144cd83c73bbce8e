import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from everlearn.report.capture import secondary_capture
from everlearn.report.pictures import overlay


def dicom(file, pixels):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    out = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    out.SOPClassUID, out.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    out.PatientID, out.PatientName, out.StudyInstanceUID = "P7", "Doe^Jane", generate_uid()
    out.Rows, out.Columns = pixels.shape
    out.SamplesPerPixel, out.PhotometricInterpretation, out.PixelRepresentation = 1, "MONOCHROME2", 0
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelData = 8, 8, 7, pixels.tobytes()
    out.save_as(file, enforce_file_format=True)
    return out


@pytest.fixture(scope="module")
def folder(digit_files, tmp_path_factory):
    """Two PNG files and a DICOM file, one of them deeper; and something that is no picture."""
    folder = tmp_path_factory.mktemp("patients")
    (folder / "deeper").mkdir()
    (folder / "notes.txt").write_text("no picture")
    for file in digit_files:
        (folder / file.name).write_bytes(file.read_bytes())
    dicom(folder / "deeper" / "scan", np.array(Image.open(digit_files[0])))
    return folder


@pytest.fixture(scope="module")
def explained(everlearn, digits_run, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("why")
    return out, everlearn.json("explain", digits_run, folder, "--out", out, "--method", "grad_cam")["explanations"]


def test_a_folder_with_a_dicom_file(explained, folder):
    out, rows = explained
    assert [row["file"] for row in rows] == ["0.png", "1.png", "scan"]
    assert [row["dicom"] is None for row in rows] == [True, True, False]
    source, made = pydicom.dcmread(folder / "deeper" / "scan"), pydicom.dcmread(rows[2]["dicom"])
    assert made.SOPClassUID.name == "Secondary Capture Image Storage"
    for name in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert made[name].value == source[name].value
    assert made.SeriesInstanceUID != source.get("SeriesInstanceUID")
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.ImageComments == rows[2]["words"]
    assert (made.pixel_array == np.array(Image.open(rows[2]["overlay"]))).all()
    assert "compare between pictures" in (out / "explanations.html").read_text()


def test_comparable_colours_follow_the_probability(explained):
    """Full colour is probability 1: a weak finding looks weak, and the map's own colours do not know it."""
    _, rows = explained
    for row in rows:
        own, common = (np.array(Image.open(row[name])).astype(int) for name in ("overlay", "comparable"))
        assert own.shape == common.shape
        if row["probability"] > 0.999:
            assert abs(own - common).max() <= 2  # nothing but rounding
    dark, heat = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.linspace(0, 1, 64).reshape(1, 8, 8)
    weak, strong = (overlay(dark, heat, strength=p).astype(int).sum() for p in (0.2, 1.0))
    assert weak < 0.5 * strong


def test_below_the_cutoff_nothing_is_drawn(everlearn, digits_run, digit_files, tmp_path):
    words = ("explain", digits_run, digit_files[0], "--out", tmp_path, "--method", "grad_cam", "--cutoff", 1)
    row = everlearn.json(*words)["explanations"][0]
    assert not row["drawn"] and (np.load(row["map"]) == 0).all() and row["verdict"] == "not supported"
    assert row["words"].startswith("No finding drawn:") and "below the cut-off of 100 %" in row["words"]
    overlay = np.array(Image.open(row["overlay"]))
    assert (overlay[..., 0] == overlay[..., 2]).all()  # grey: nothing laid over it
    page = (tmp_path / "explanations.html").read_text()
    assert "no finding drawn" in page and "what the decision rests on" not in page


def test_what_is_refused(everlearn, digits_run, digit_files, tmp_path):
    assert "holds no picture; expected JPEG" in everlearn.refused("explain", digits_run, tmp_path)
    refused = everlearn.refused("explain", digits_run, digit_files[0], "--method", "magic", "--out", tmp_path / "out")
    assert "explainer is 'magic'" in refused and not (tmp_path / "out").exists()
    code, _, err = everlearn("explain", digits_run, digit_files[0], "--cutoff", 2)
    assert code == 2 and "cutoff" in err


def test_a_place_that_takes_no_files_is_told_before_anything_is_computed(
    everlearn, digits_run, digit_files, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out"
    monkeypatch.setattr("everlearn.cli.explain.explain_inputs", None)
    monkeypatch.setattr("everlearn.cli.audit.audit_run", None)
    for verb in (("explain", digits_run, digit_files[0]), ("audit", digits_run)):
        assert f"cannot write to {place}: {place.parent} is not a directory" in everlearn.refused(*verb, "--out", place)


def test_what_is_written_never_overwrites_another(everlearn, digits_run, digit_files, tmp_path):
    for name in ("x.png", "x-comparable.png", "x 2.png", "x_2.png"):
        (tmp_path / name).write_bytes(digit_files[0].read_bytes())
    rows = everlearn.json("explain", digits_run, tmp_path, "--out", tmp_path / "why", "--method", "grad_cam")
    written = [row[kind] for row in rows["explanations"] for kind in ("overlay", "comparable", "map")]
    assert len(written) == len(set(written)) == 12


def test_a_capture_says_of_names_in_its_pixels_what_the_original_says(tmp_path):
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    for said in ("YES", "NO", None):
        made = dicom(tmp_path / "scan", picture[..., 0])
        if said:
            made.BurnedInAnnotation = said
            made.save_as(tmp_path / "scan", enforce_file_format=True)
        file = secondary_capture(picture, "why", tmp_path / "why.dcm", tmp_path / "scan")
        assert pydicom.dcmread(file).get("BurnedInAnnotation") == said
