"""The verb: begin, measure, tell, propose again."""

import csv
import json
import sys

import pytest
from typer.testing import CliRunner

from everlearn.cli.main import app
from everlearn.discovery import needs
from everlearn.errors import EverlearnError, RunError, SettingError


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
        (["FOLDER", "--target", "y"], "is not a discovery run"),
        (["FOLDER"], "is not a discovery run"),
        (["NOTHING", "--target", "y", "--run", "r"], "there is no "),
        (["POOL", "--target", "y", "--target", "y", "--run", "r"], "the target 'y' is given twice"),
        (["POOL", "--target", "y", "--target", "y:min", "--run", "r"], "the target 'y' is given twice"),
        (["POOL", "--target", "y", "--run", "r", "--limit", "T<=1e999"], "setting limits.0.bound is inf"),
        (["POOL", "--target", "y", "--run", "r", "--limit", "T<=3", "--limit", "T>=5"], "both T<=3 and T>=5; widen"),
        (["POOL", "--target", "y", "--run", "r", "--limit", "salt<=3"], "no candidate keeps salt<=3; widen"),
        (["POOL", "--target", "y", "--run", "r", "--cost", "y"], "cost is 'y', which is a target"),
        (["POOL", "--target", "y", "--run", "r", "--ignore", "y"], "ignore is 'y', which is a target"),
        (["POOL", "--target", "y", "--run", "r", "--name", "y"], "name is 'y', which is a target"),
        (["POOL", "--target", "y", "--run", "r", "--cost", "salt"], "'salt' holds no cost above 0 for any candidate"),
        (["POOL", "--target", "y", "--run", "r", "--inputs", "columns", "--column", "T"], "column is 'T', but with"),
        (["POOL", "--target", "y", "--run", "r", "--results", "NOTHING"], "there is no such file"),
        (["POOL", "--target", "y", "--run", "r", "--serve", "--json"], "leave one of them out"),
    ],
)
def test_bad_use_gets_one_line(columns, tmp_path, arguments, message):
    places = {"POOL": columns, "FOLDER": tmp_path, "r": tmp_path / "r", "NOTHING": tmp_path / "nothing.csv"}
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


def test_settings_that_a_campaign_was_not_begun_with_are_refused(columns, tmp_path):
    run = tmp_path / "run"
    words = ["--target", "y", "--ignore", "salt", "--limit", "T<=9", "--seed", 3]
    assert discover(columns, *words, "--run", run, "--batch", 2, "--no-reasons").exit_code == 0
    held = (run / "campaign.toml").read_bytes()
    for given, message in (
        (["--minimise"], "--target is y:min, and {run} was begun with y:max; leave --target out"),
        (["--target", "y:min"], "--target is y:min"),
        (["--target", "T"], "--target is T:max"),
        (["--ignore", "T"], "--ignore is T, and {run} was begun with salt"),
        (["--limit", "T<=5"], "--limit is T<=5, and {run} was begun with T<=9"),
        (["--seed", 4], "--seed is 4, and {run} was begun with 3"),
        (["--cost", "T"], "--cost is T, and {run} was begun with none"),
        (["--inputs", "columns"], "--inputs is columns"),
        (["--run", run], "--run is for a new campaign"),
        (["--serve", "--batch", 2], "leave it out with --serve"),
        (["--seed", -1], "setting seed is -1"),
    ):
        said = discover(run, *given)
        assert isinstance(said.exception, SettingError) and message.format(run=run) in str(said.exception), given
    assert discover(run, *words, "--no-reasons").exit_code == 0
    assert (run / "campaign.toml").read_bytes() == held


def test_runs_of_other_kinds_are_told_apart(columns, tmp_path):
    learner, pretraining = tmp_path / "learner", tmp_path / "pretraining"
    for run, text in ((learner, "[data]\nsource = 'x'\n"), (pretraining, "[model]\n[train]\n")):
        run.mkdir()
        (run / "config.toml").write_text(text)
    assert "is a run of a learner, not a campaign; expected everlearn report" in str(discover(learner).exception)
    assert "expected everlearn pretrain --resume" in str(discover(pretraining).exception)
    said = discover(columns, "--target", "y", "--run", learner)
    assert "holds a run already, which is no campaign; choose another directory" in str(said.exception)
    assert sorted(file.name for file in learner.iterdir()) == ["config.toml"]


def test_features_that_cannot_be_kept_are_one_line(molecules, tmp_path):
    assert discover(molecules, "--target", "y", "--run", tmp_path / "run", "--no-reasons").exit_code == 0
    (tmp_path / "run" / "features.npz").unlink()
    (tmp_path / "run" / "features.npz").mkdir()
    said = discover(tmp_path / "run", "--no-reasons").exception
    assert isinstance(said, RunError) and "features.npz: Is a directory" in str(said)
