"""Forgetting leaves no byte behind and equals never having learned it."""

import sqlite3

import numpy as np
import pytest
import torch

from everlearn.errors import DataError
from everlearn.runs.forgetting import Found, find_sample
from everlearn.runs.reviews import REVIEW_IDS, Review


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
    kept = desk.run.versions.there()

    desk.reviews.order("forget", {"reviews": [4], "cases": []}, "me")
    finish(desk)
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
    ):
        with pytest.raises(DataError, match=line):
            find_sample(desk.reviews, id_)


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
