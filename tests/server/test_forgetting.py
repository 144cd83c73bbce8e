"""Forgetting leaves no byte behind and equals never having learned it."""

import io
import json
import shutil
import sqlite3

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="serving is an extra")
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from everlearn.cli.forget import forget
from everlearn.errors import DataError
from everlearn.runs import Config, Run, learn
from everlearn.runs.forgetting import Found, erase, find_sample
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import REVIEW_IDS, Review, Reviews
from everlearn.server.cases import Cases
from everlearn.server.security import secret


def finish(desk):
    while desk.reviewing.work():
        pass


def test_a_forgotten_review_equals_one_that_was_never_learned(opened, verdicts, run_path):
    secret = "Jane Doe, room 12"
    desk = opened(publish_after=0.0)
    for i, verdict in enumerate(verdicts[:6]):
        row = desk.reviews.add(verdict)
        if i == 3:
            desk.reviews.withdraw(row["number"], "me")
    finish(desk)
    never = {name: t.clone() for name, t in desk.reviewing.learner.state_dict().items()}
    first = desk.reviews.versions()[0]["number"]
    desk.reviews.order("roll back", {"version": first}, "me")
    finish(desk)
    with desk.reviews.transaction() as db:
        db.execute("UPDATE reviews SET status = 'learn'")
        db.execute("UPDATE reviews SET note = ? WHERE number = 4", secret)
    finish(desk)
    assert 4 in [row["review"] for row in desk.reviews.learned()]
    desk.run.versions.drop(desk.run.versions.there()[-2])  # as of old versions that were thinned out
    kept = desk.run.versions.there()

    number = desk.reviews.order("forget", {"reviews": [4], "cases": []}, "me")
    finish(desk)
    answer = json.loads(desk.reviews.rows("SELECT answer FROM orders WHERE number = ?", number)[0]["answer"])
    assert answer["versions"] == len(set(kept) - set(desk.run.versions.there())) > 0
    found = desk.reviewing.learner.state_dict()
    assert all(torch.equal(never[name], found[name]) for name in never)
    assert set(desk.run.versions.there()) < set(kept) | {max(kept) + 1}
    for number in desk.run.versions.there():
        assert REVIEW_IDS + 4 not in desk.run.versions.load(number)[1]["memory.ids"]
    row = desk.reviews.get(4)
    assert row["status"] == "forgotten" and row["picture"] is None and row["note"] == ""
    assert desk.reviews.verify_audit().fault is None
    desk.close()
    for file in run_path.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


def test_what_to_forget_must_be_there(opened):
    desk = opened()
    learned = desk.reviews.rows("SELECT id FROM samples LIMIT 1")[0]["id"]
    assert find_sample(desk.reviews, str(learned)) == Found(ids=[learned])
    for id_, line in (
        ("999999", "holds nothing of sample 999999"),
        ("s5", "holds nothing"),
        ("../x", "expected the number"),
        ("u²", "expected the number"),
        ("²", "expected the number"),
    ):
        with pytest.raises(DataError, match=line):
            find_sample(desk.reviews, id_)


@pytest.mark.parametrize("spelt", ["u01", "u\u0661"])
def test_what_an_old_server_took_under_another_spelling_is_forgotten_too(opened, run_path, pictures, spelt):
    desk = opened()
    cases = Cases(desk.run, desk.reviews, None, 100, secret(run_path))
    case = cases.add(of_patient(""))
    assert cases.get(spelt) == case and torch.equal(cases.picture(spelt), cases.picture("u1"))
    other = desk.reviews.add(Review("u11", "correct", "2", pictures[0][1].numpy(), note="of another case"))
    for id_ in (case.id, spelt):
        desk.reviews.add(Review(id_, "correct", "1", pictures[0][0].numpy(), note="Jane Doe"))
        with desk.reviews.transaction() as db:
            db.execute("INSERT INTO predictions (at, actor, what, version, label, probability) "
                       "VALUES (0, 'me', ?, 1, '1', 0.5)", id_)  # fmt: skip
    found = find_sample(desk.reviews, spelt)
    assert found == find_sample(desk.reviews, "u1") == Found([2, 3], [1])
    erase(desk.reviews, found, "me")
    rows = desk.reviews.rows("SELECT number, note FROM reviews WHERE picture IS NOT NULL OR note != ''")
    assert [(row["number"], row["note"]) for row in rows] == [(other["number"], "of another case")]
    assert not desk.reviews.rows("SELECT 1 FROM predictions WHERE what LIKE 'u%'")


def test_a_sample_of_the_stream_is_unlearned_by_learning_without_it(opened, run_path, pictures):
    from everlearn.cli.forget import _from_the_stream

    desk = opened()
    desk.reviews.add(Review("s0", "correct", "1", np.array(pictures[0][0])))
    finish(desk)
    id_ = int(desk.reviews.rows("SELECT id FROM samples WHERE step = 3 LIMIT 1")[0]["id"])
    seen = desk.run.progress.samples_seen
    desk.close()
    did = _from_the_stream(run_path, Found(ids=[id_]), quiet=True)
    assert did["samples"] == 1
    desk = opened()
    assert desk.run.progress.samples_seen == seen - 1  # the review is learned again, the sample is not
    assert [row["review"] for row in desk.reviews.learned()] == [1]
    assert desk.reviews.rows("SELECT * FROM samples WHERE id = ?", id_) == []
    desk.close()
    db = sqlite3.connect(run_path / "journal.sqlite")
    assert db.execute("SELECT COUNT(*) FROM forgotten").fetchone()[0] == 1


def of_patient(name):
    """A DICOM file of one patient."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.PatientID, made.Rows, made.Columns, made.SamplesPerPixel = name, 8, 8, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelData = np.arange(64, dtype=np.uint8).tobytes()
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def run_of_patients(learned_run, tmp_path_factory):
    """Learned from a table that names patients; of two of them a DICOM file was sent, reviewed and learned as well."""
    folder = tmp_path_factory.mktemp("patients")
    files = sorted(shutil.copytree(learned_run.parent / "data", folder / "data").rglob("*.png"))
    rows = [f"{file},{file.parent.name},patient {i % 10}" for i, file in enumerate(files)]
    (folder / "list.csv").write_text("\n".join(["path,label,patient", *rows]))
    config = Config.of({
        "data": {"source": str(folder / "list.csv"), "size": 8, "channels": 1, "holdout": 0.3},
        "learner": {"method": "er", "memory": 40, "precision": "float32"}, "stream": {"tasks": 3},
    })  # fmt: skip
    with Run.create(folder / "run", config) as run:
        learn(run)
        reviews = Reviews(run.journal.db)
        reviewing = Reviewing(run, reviews, publish_after=0.0)
        cases = Cases(run, reviews, None, 100, secret(run.path))
        for name in ("patient 3", "patient 99"):
            case = cases.add(of_patient(name))
            picture = cases.picture(case.id).numpy()
            reviews.add(Review(case.id, "correct", "1", picture, patient=case.patient, note=f"of {case.patient}"))
        while reviewing.work():
            pass
    return folder / "run"


@pytest.mark.parametrize("patient, samples", [("patient 3", True), ("patient 99", False)])
def test_a_patient_is_forgotten_in_stream_cases_and_reviews(run_of_patients, tmp_path, capsys, patient, samples):
    path = shutil.copytree(run_of_patients, tmp_path / "run")
    with Run.open(path) as run:
        reviews = Reviews(run.journal.db)
        pseudonym = Cases(run, reviews, None, 100, secret(path)).pseudonym(patient)
        theirs = {int(row["id"]) for row in reviews.rows("SELECT id FROM samples")} if samples else set()
        (mine,) = reviews.rows("SELECT number, case_id FROM reviews WHERE patient = ?", pseudonym)
    forget(path, patient=patient, json=True)
    did = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (did["reviews"], did["cases"]) == (1, 1) and (did["samples"] > 5) == samples and did["versions"] >= 1
    with Run.open(path, write=True) as run:
        reviews = Reviews(run.journal.db)
        reviewing = Reviewing(run, reviews)
        left = {int(row["id"]) for row in reviews.rows("SELECT id FROM samples")}
        gone = {*(theirs - left), REVIEW_IDS + mine["number"]}
        assert len(gone) == did["samples"] + 1
        for number in run.versions.there():
            assert not gone & set(run.versions.load(number)[1]["memory.ids"].tolist())
        assert not gone & set(reviewing.learner.memory.ids.tolist())
        (other,) = (row["number"] for row in reviews.rows("SELECT number FROM reviews WHERE status = 'learn'"))
        assert [row["review"] for row in reviews.learned()] == [other] and other != mine["number"]
        assert len(reviews.rows("SELECT number FROM cases")) == 1 and reviews.verify_audit().fault is None
        with pytest.raises(DataError, match="holds nothing of this patient"):
            forget(path, patient=patient)
    for file in path.rglob("*"):
        if file.is_file():
            assert pseudonym.encode() not in file.read_bytes(), file
