"""The verb: begin, measure, tell, propose again."""

import csv
import json
import sys

import pytest
from typer.testing import CliRunner

from everlearn.cli.main import app
from everlearn.discovery import needs
from everlearn.errors import EverlearnError, SettingError


def discover(*arguments):
    return CliRunner().invoke(app, ["discover", *map(str, arguments)])


def test_from_a_pool_to_the_second_batch(columns, tmp_path):
    run = tmp_path / "run"
    begun = discover(columns, "--target", "y", "--run", run, "--batch", 3, "--json")
    assert begun.exit_code == 0, begun.output
    first = json.loads(begun.stdout)
    assert len(first["proposals"]) == 3 and first["told"] is None
    assert all(each["expected"]["y"]["low"] <= each["expected"]["y"]["high"] for each in first["proposals"])
    assert (run / "report.html").exists()
    with (run / "proposals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = tmp_path / "results.csv"
    with results.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["candidate", "y"], *([row["candidate"], 1.0] for row in rows), ["row 999", 2.0]])
    told = discover(run, "--results", results, "--json")
    assert told.exit_code == 0, told.output
    second = json.loads(told.stdout)
    assert second["told"] == {"learned": 3, "repeats": 0, "again": False}
    assert {"file": "results.csv", "row": 5, "reason": "unknown candidate 'row 999'; it is not in the pool"} in second[
        "aside"
    ]
    assert not {row["candidate"] for row in rows} & {each["candidate"] for each in second["proposals"]}
    assert "told already" in discover(run, "--results", results).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["POOL"], "needs --target COLUMN and --run RUN"),
        (["POOL", "--target", "y", "--run", "r", "--limit", "T=3"], "expected COLUMN<=NUMBER"),
        (["POOL", "--target", "y", "--run", "r", "--batch", "0"], "setting batch is 0"),
        (["FOLDER", "--target", "y"], "--target was settled"),
        (["FOLDER"], "is not a discovery run"),
    ],
)
def test_bad_use_gets_one_line(columns, tmp_path, arguments, message):
    places = {"POOL": columns, "FOLDER": tmp_path, "r": tmp_path / "r"}
    said = discover(*(places.get(each, each) for each in arguments))
    assert isinstance(said.exception, EverlearnError) and message in str(said.exception)
    assert not (tmp_path / "r").exists()
    assert "\n" not in str(said.exception)


def test_a_missing_library_gets_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(SettingError, match=r"discovery needs rdkit.*pip install 'everlearn\[discover\]'"):
        needs.need("rdkit.Chem")


def test_bad_rows_are_named_and_the_campaign_goes_on(molecules, tmp_path):
    """Every kind of bad row at once, in the pool and in the results."""
    bad = ["C1CC,1", "OCC,0.2", "CCCF,<1E-10", "CCCCl,4 meV", ",3"]
    molecules.write_text("\n".join([molecules.read_text(), *bad]))
    begun = discover(molecules, "--target", "y", "--run", tmp_path / "run", "--no-reasons", "--json")
    assert begun.exit_code == 0, begun.output
    found = json.loads(begun.stdout)
    assert [each["row"] for each in found["aside"]] == [30, 31, 32, 33, 34]
    expected = ("invalid SMILES 'C1CC'", "same candidate as row", "is a bound", "'4 meV' is in meV", "smiles is empty")
    assert all(each in aside["reason"] for each, aside in zip(expected, found["aside"]))
    first, second = (each["candidate"] for each in found["proposals"][:2])
    results = tmp_path / "results.csv"
    results.write_text(f"candidate,y\n{first},0.5\n{second},0.4 meV\nCCCCCCCCCC,1\n")
    told = json.loads(discover(tmp_path / "run", "--results", results, "--no-reasons", "--json").stdout)
    assert told["told"]["learned"] == 1 and len(told["proposals"]) == 8
    assert [each["row"] for each in told["aside"] if each["file"] == "results.csv"] == [3, 4]
    assert first not in {each["candidate"] for each in told["proposals"]}
