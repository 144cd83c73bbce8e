"""Nothing of a DICOM header is kept: every attribute of the standard's dictionary that can hold text is tried."""

import io
import os
import re
import tempfile

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="serving is an extra")
from fastapi.testclient import TestClient
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from everlearn.runs import Run
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews
from everlearn.server import Settings, create_app

TEXT = {"PN": 60, "LO": 60, "SH": 16, "ST": 200, "LT": 200, "UT": 200, "UC": 200}
DATES = {"DA": "19470523", "TM": "042317.194723", "DT": "19470523042317.194723", "AS": "094Y"}
NEEDED = {0x00080005, 0x00080016, 0x00080018, 0x00280004, 0x00280301}  # how the pixels are read, and what is burnt in


def identified(burnt_in="NO"):
    """A picture whose header holds a mark wherever the standard has room for one."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3.19470523"
    for tag, (vr, *_) in DicomDictionary.items():
        if tag in NEEDED or tag >> 16 <= 2:
            continue
        if vr in TEXT:
            made.add_new(tag, vr, f"MARK{tag:08x}"[: TEXT[vr]])
        elif vr in DATES:
            made.add_new(tag, vr, DATES[vr])
    inner = Dataset()
    inner.PatientName, inner.PersonAddress = "MARKinner", "MARKinner street"
    made.RequestAttributesSequence = [inner]
    made.private_block(0x0009, "MARKprivate", create=True).add_new(1, "LO", "MARKprivate value")
    made.add_new(0x60003000, "OW", b"MARKoverlay!")
    made.BurnedInAnnotation = burnt_in
    made.Rows = made.Columns = 16
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = np.arange(256, dtype=np.uint8).tobytes()
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture
def client(run_path):
    with Run.open(run_path, write=True) as run:
        Reviewing(run, Reviews(run.journal.db))  # makes the first version
    with TestClient(create_app(Settings(run_path, learns=False)), base_url="http://127.0.0.1") as client:
        yield client


def test_nothing_of_a_header_is_stored_or_shown(client, run_path, monkeypatch):
    content = identified()
    assert len(re.findall(rb"MARK", content)) > 700
    if hasattr(os, "memfd_create"):
        monkeypatch.setattr(tempfile, "TemporaryDirectory", None)  # nobody asks for a place on disk
    case = client.post("/api/v1/cases", files={"file": ("MARKfilename.dcm", content)}).json()
    assert re.fullmatch(r"p-[0-9a-f]{16}", case["patient"])
    given = {"case_id": case["id"], "verdict": "correct", "label": "1"}
    assert client.post("/api/v1/reviews", json=given).status_code == 201
    shown = [client.get(path) for path in (
        f"/case/{case['id']}", f"/case/{case['id']}/why", f"/api/v1/cases/{case['id']}/picture", "/", "/dashboard",
        "/api/v1/reviews", "/api/v1/worklist", "/api/v1/audit",
    )]  # fmt: skip
    client.app.state.desk.db.scrub()
    kept = [file.read_bytes() for file in run_path.rglob("*") if file.is_file()]
    for content in [answer.content for answer in shown] + kept:
        for mark in (b"MARK", b"19470523", b"194723", b"094Y", b"1.2.3."):
            assert mark not in content
    assert {answer.status_code for answer in shown} == {200}


def test_a_patient_is_the_same_in_one_run_and_another_in_the_next(client):
    cases = client.app.state.desk.cases
    first, again = cases.read(identified())[2], cases.read(identified(burnt_in=""))[2]
    cases.salt = os.urandom(32)  # another run's
    assert first == again != cases.read(identified())[2]


def test_names_written_into_the_pixels_are_refused(client):
    answer = client.post("/api/v1/cases", files={"file": identified(burnt_in="YES")})
    assert answer.status_code == 422 and "written into its pixels" in answer.json()["detail"]
    assert client.post("/api/v1/predict", files={"files": identified(burnt_in="YES")}).status_code == 200  # not kept
    assert client.get("/api/v1/worklist?order=arrival").json()["cases"][0]["id"].startswith("s")
