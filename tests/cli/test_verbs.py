"""Every verb, as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image

from everlearn.metrics.continual import average_accuracy, forgetting

from .conftest import picture_folder


def test_learn_ends_with_one_json_object(everlearn, tmp_path):
    result = everlearn.json("learn", "builtin:digits", "--run", tmp_path / "r", "--method", "er", "--memory", 100)
    wanted = {
        "average_accuracy",
        "forgetting",
        "accuracy_matrix",
        "samples_seen",
        "steps_per_second",
        "seconds",
        "seed",
    }
    assert wanted | {"versions"} <= set(result)
    matrix = result["accuracy_matrix"]
    assert [sum(v is not None for v in row) for row in matrix] == [1, 2, 3, 4, 5]
    assert result["average_accuracy"] == average_accuracy(matrix)
    assert result["forgetting"] == forgetting(matrix)
    assert result["samples_seen"] == 1438
    assert matrix[0][0] > 0.8


def test_a_run_on_a_class_folder(everlearn, tmp_path):
    from .conftest import picture_folder

    folder = picture_folder(tmp_path / "pictures")
    result = everlearn.json("learn", folder, "--run", tmp_path / "r", "--tasks", 1, "--memory", 10, "--batch", 3)
    assert result["samples_seen"] + 2 == 12  # a fifth of each class is held out, one at least
    said = everlearn.json("predict", tmp_path / "r", folder / "cat" / "0.png")
    assert set(said["predictions"][0]["probabilities"]) == {"cat", "dog"}


def test_evaluate(everlearn, digits_run):
    result = everlearn.json("evaluate", digits_run, "builtin:digits")
    config = json.loads(everlearn("evaluate", digits_run, "builtin:digits", "--json")[1])
    assert config == result
    assert result["samples"] == 359
    rows = result["classes"].values()
    mean = sum(row["samples"] * row["accuracy"] for row in rows) / result["samples"]
    assert result["accuracy"] == pytest.approx(mean)
    assert result["unknown_classes"] == []


def test_predict(everlearn, digits_run, digit_files):
    result = everlearn.json("predict", digits_run, *digit_files)
    for row in result["predictions"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)
    code, shown, _ = everlearn("predict", digits_run, *digit_files)
    assert code == 0
    assert "probability" in shown


@pytest.mark.parametrize("method", ["sise", "grad_cam"])
def test_explain(everlearn, digits_run, digit_files, tmp_path, method):
    out = tmp_path / "why"
    result = everlearn.json("explain", digits_run, *digit_files, "--method", method, "--out", out, "--target", "3")
    for row in result["explanations"]:
        assert row["class"] == "3"
        assert row["verdict"] in ("supported", "weak", "not supported")
        assert np.load(row["map"]).shape == (8, 8)
        assert Image.open(row["overlay"]).size == (224, 224)
        assert row["evidence"]
    page = (out / "explanations.html").read_text()
    assert page.count("data:image/png") >= 4
    assert "http" not in page.replace("http://www.w3.org", "")


def test_report_stands_alone(everlearn, digits_run):
    result = everlearn.json("report", digits_run)
    page = (digits_run / "report.html").read_text()
    assert result["report"] == str(digits_run / "report.html")
    assert page.count('<article class="case">') == 6
    assert "average accuracy" in page
    assert 'src="http' not in page


def test_help_names_every_verb(everlearn):
    code, out, _ = everlearn("--help")
    assert code == 0
    for verb in ("demo", "learn", "evaluate", "predict", "explain", "report"):
        assert verb in out
        assert everlearn(verb, "--help")[0] == 0


def test_names_are_shown_as_they_are(everlearn, tmp_path):
    """A class or folder may be called what a terminal library takes for markup."""
    classes = ("[neg]", "pos[x]", ":smile:")
    folder, run = picture_folder(tmp_path / "[/old]", classes, spread=70), tmp_path / "r"
    learn = ("learn", folder, "--run", run, "--method", "er", "--memory", 12, "--batch", 4, "--tasks", 1)
    said = [everlearn(*learn)]
    file = folder / "[neg]" / "0.png"
    said.append(everlearn("predict", run, file))
    assert all(name in said[-1][1] for name in classes)
    said.append(everlearn("evaluate", run, folder))
    assert all(name in said[-1][1] for name in classes)
    said.append(everlearn("explain", run, file, "--method", "grad_cam"))
    said.append(everlearn("audit", run))
    assert any(name in said[-1][1] for name in classes)
    assert [code for code, *_ in said] == [0] * 5


def test_an_interruption_is_said_in_one_line(everlearn, digits_run, digit_files, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("everlearn.cli.predict.read_given", stop)
    code, out, err = everlearn("predict", digits_run, digit_files[0])
    assert (code, out) == (130, "") and err.startswith("everlearn: interrupted; a run keeps") and err.count("\n") == 1


def test_one_picture_a_class_is_learned_though_nothing_is_held_out(everlearn, tmp_path):
    folder = picture_folder(tmp_path / "few", n=1)
    code, out, _ = everlearn("learn", folder, "--run", tmp_path / "r", "--method", "er", "--memory", 4)
    assert code == 0 and "nothing was held out to measure" in out
