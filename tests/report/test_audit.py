"""The audit finds what was planted: wrong labels and duplicates in a learner's memory."""

import csv

import pytest
import torch

from everlearn.data.samples import Batch
from everlearn.errors import RunError, SettingError
from everlearn.learners.er import ER
from everlearn.models import build_model
from everlearn.report.audit import audit_memory, audit_page, write_csv


@pytest.fixture(scope="module")
def planted():
    """Three classes of 8×8 pictures by where the light is; 6 of 90 labels are wrong, and three pictures are twins."""
    generator = torch.Generator().manual_seed(0)
    learner = ER(build_model("slim_resnet18", channels=1, size=8), memory=100, precision="float32", device="cpu")
    true = torch.arange(90) % 3
    x = torch.randint(0, 90, (90, 1, 8, 8), generator=generator)
    for i, c in enumerate(true.tolist()):
        x[i, 0, :, 3 * c : 3 * c + 2] += 140
    labels = true.clone()
    wrong = [4, 20, 37, 52, 66, 81]
    labels[wrong] = (labels[wrong] + 1) % 3
    x[30], x[45] = x[0], x[3]  # the same label
    x[10], labels[10] = (x[7] + torch.randint(0, 3, (1, 8, 8), generator=generator)), (labels[7] + 1) % 3
    x = x.to(torch.uint8)
    for start in range(0, 90, 10):
        part = slice(start, start + 10)
        learner.observe(Batch(x[part], labels[part], 1000 + torch.arange(start, start + 10)))
    return learner, [1000 + i for i in (*wrong, 10)]


def audited(learner, k=10):
    return audit_memory(learner, ["left", "middle", "right"], lambda id_: f"file-{id_}.png", k)


def test_planted_wrong_labels_are_found(planted):
    learner, wrong = planted
    found = audited(learner)
    ranked = [e.id for e in found.entries]
    assert len(ranked) == 90 and [e.rank for e in found.entries] == list(range(1, 91))
    assert len(set(ranked[:7]) & set(wrong)) >= 6
    flagged = {e.id for e in found.wrong}
    assert len(flagged & set(wrong)) >= 6 and len(flagged - set(wrong)) <= 2
    names = ["left", "middle", "right"]
    for e in found.wrong:
        if e.id in wrong[:6]:
            assert e.suggested == names[(e.id - 1000) % 3] and e.name == f"file-{e.id}.png"


def test_planted_duplicates_are_found_those_with_two_labels_first(planted):
    pairs = [tuple(sorted((a.id, b.id))) for a, b in audited(planted[0]).duplicates]
    assert pairs[0] == (1007, 1010)
    assert {(1000, 1030), (1003, 1045)} <= set(pairs) and len(pairs) <= 5


def test_helpful_and_harmful_by_their_values(planted):
    found = audited(planted[0])
    assert {e.id for e in found.harmful[:4]} <= set(planted[1])
    values = [e.value for e in found.helpful]
    assert values == sorted(values, reverse=True) and values[-1] > 0
    assert not {e.id for e in found.helpful[:20]} & set(planted[1])


def test_csv_and_page_hold_it_all(planted, tmp_path):
    found = audited(planted[0])
    rows = list(csv.DictReader(write_csv(found, tmp_path / "a" / "audit.csv").open()))
    assert len(rows) == 90 and rows[0]["id"] == str(found.entries[0].id) and rows[0]["likely_wrong"] == "True"
    page = audit_page(found, planted[0], "Audit of <it>", tmp_path / "audit.html").read_text()
    assert "Audit of &lt;it&gt;" in page and page.count("data:image/png") > 20 and "http" not in page
    assert f"{len(found.wrong)} labels are likely wrong" in page


def test_a_spreadsheet_calculates_no_text_of_the_table(planted, tmp_path):
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    labels = [formulas[0], "middle", "right=1"]
    found = audit_memory(planted[0], labels, lambda id_: formulas[id_ % 6], 10)
    with write_csv(found, tmp_path / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {f"'{formula}" for formula in formulas}
    assert {row["label"] for row in rows} == {"'=1+1", "middle", "right=1"} >= {row["suggested"] for row in rows}
    assert [float(row["value"]) for row in rows] == [e.value for e in found.entries]


def test_too_little_to_compare():
    learner = ER(build_model("slim_resnet18", channels=1, size=8), memory=5, device="cpu")
    with pytest.raises(RunError, match="remembers 0 samples; an audit compares each with the others"):
        audited(learner)
    with pytest.raises(SettingError, match="k is 0"):
        audited(learner, 0)
