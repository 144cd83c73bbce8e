import csv
from pathlib import Path


def test_audit(everlearn, digits_run, tmp_path):
    found = everlearn.json("audit", digits_run, "--out", tmp_path)
    rows = list(csv.DictReader(Path(found["csv"]).read_text().splitlines()))
    assert found["samples"] == len(rows) == 100
    assert {int(row["id"]) for row in rows} >= {e["id"] for e in found["likely_wrong"]} | set(found["most_helpful"])
    assert Path(found["page"]).read_text().startswith("<!doctype html>")
    code, out, _ = everlearn("audit", digits_run, "--out", tmp_path, "--k", 5)
    assert code == 0 and "likely wrong labels" in out and "most helpful" in out


def test_refusals(everlearn, digits_run, tmp_path):
    assert "is not a run" in everlearn.refused("audit", tmp_path / "none")
    assert "k is 0; expected 1 or more" in everlearn.refused("audit", digits_run, "--k", 0)
