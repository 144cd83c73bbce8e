"""Reviews are durable, checked, counted once, and entered in a chain that cannot be changed unnoticed."""

import sqlite3

import numpy as np
import pytest

from everlearn.errors import DataError
from everlearn.runs import Journal
from everlearn.runs.database import open_database
from everlearn.runs.reviews import CHECK_EVERY, Review, Reviews, picture_of

PICTURE = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)


@pytest.fixture
def file(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.source("a", 4, ("cat", "dog"))
    journal.close()
    return tmp_path / "journal.sqlite"


@pytest.fixture
def reviews(file):
    return Reviews(open_database(file))


def review(verdict="correct", label="dog", **more):
    return Review("s1", verdict, label, PICTURE, **more)


def test_a_review_is_there_for_another_connection_when_add_returns(file, reviews):
    row = reviews.add(review(note="n", box=(0.1, 0.2, 0.3, 0.4), said=0, version=1))
    other = Reviews(open_database(file)).get(row["number"])
    assert (other["label"], other["said_label"], other["note"], other["step"]) == ("dog", "cat", "n", None)
    assert (picture_of(other) == PICTURE).all()


def test_the_same_key_counts_once(reviews):
    first = reviews.add(review(key="one-two-three"))
    again = reviews.add(review(key="one-two-three", note="sent again"))
    assert first["number"] == again["number"] and len(reviews.waiting(0)) == 1


@pytest.mark.parametrize(("verdict", "label"), [("correct", "cat"), ("unsure", None)])
def test_a_key_is_of_one_review_only(reviews, verdict, label):
    reviews.add(review(key="one-two-three"))
    with pytest.raises(DataError, match="the key 'one-two-three' is that of another review, number 1; expected"):
        reviews.add(review(verdict, label, key="one-two-three"))
    assert len(reviews.waiting(0)) == 1


def test_a_new_label_makes_a_class_with_the_next_code(reviews):
    assert reviews.add(review(label="horse"))["code"] == 2
    assert reviews.add(review(label="horse"))["code"] == 2


def test_every_so_many_confirmations_one_is_kept_for_checking_and_unsure_is_not_learned(reviews):
    statuses = [reviews.add(review("accept"))["status"] for _ in range(2 * CHECK_EVERY)]
    assert statuses == (["learn"] * (CHECK_EVERY - 1) + ["check"]) * 2
    assert reviews.add(review("unsure", None))["status"] == "unsure"
    assert all(reviews.add(review())["status"] == "learn" for _ in range(CHECK_EVERY))


def test_a_withdrawn_review_no_longer_waits(reviews):
    number = reviews.add(review())["number"]
    assert reviews.withdraw(number, "me")["status"] == "withdrawn"
    assert reviews.waiting(0) == [] and reviews.queue() == 0


@pytest.mark.parametrize(
    "given, line",
    [
        (review("correct", None), "unsure has none"),
        (review("unsure", "dog"), "unsure has none"),
        (review(label=""), "1 to 100 printable"),
        (review(label="a\nb"), "1 to 100 printable"),
        (review(label=" dog"), "no blanks around it"),
        (review(note="x" * 4001), "at most 4000"),
        (review(box=(0.5, 0.5, 0.6, 0.1)), "inside it"),
        (Review("s1", "correct", "dog", np.zeros((8, 8), np.uint8)), r"expected uint8 \[C, H, W\]"),
    ],
)
def test_what_makes_no_sense_is_refused(reviews, given, line):
    with pytest.raises(DataError, match=line):
        reviews.add(given)
    assert reviews.recent() == []


def test_there_must_be_a_review_to_withdraw(reviews):
    with pytest.raises(DataError, match="there is no review 7"):
        reviews.withdraw(7, "me")


@pytest.mark.parametrize(
    "change, fault",
    [
        ("UPDATE audit SET detail = replace(detail, 'correct', 'accept') WHERE number = 2", "entry 2 was changed"),
        ("UPDATE audit SET at = at + 1e-6 WHERE number = 1", "entry 1 was changed"),
        ("DELETE FROM audit WHERE number = 2", "entry 2 is missing"),
        ("UPDATE audit SET previous = hash WHERE number = 3", "entry 3 does not follow"),
    ],
)
def test_the_audit_chain_notices(file, reviews, change, fault):
    for _ in range(3):
        reviews.add(review())
    assert reviews.verify_audit().fault is None and reviews.verify_audit().entries == 3
    db = sqlite3.connect(file)
    db.execute(change)
    db.commit()
    assert fault in reviews.verify_audit().fault
