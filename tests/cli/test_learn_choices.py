"""``everlearn learn`` without settings: what it chose is said, kept and used; a finished run goes on by --run."""

import tomllib

from everlearn.models import build_model

from .conftest import picture_folder


def test_choices_are_said_kept_and_used(everlearn, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = picture_folder(tmp_path / "pictures", n=4, size=12)
    code, _, said = everlearn("learn", folder, "--run", tmp_path / "r", "--tasks", 1)
    assert code == 0
    assert "slim_resnet18" in said
    assert "no pretrained weights at hand" in " ".join(said.split())
    kept = tomllib.loads((tmp_path / "r" / "config.toml").read_text())
    assert kept["data"]["size"] == 12
    assert kept["learner"]["method"] == "aser"
    assert kept["chosen"]["size"] == "12: the pictures' own"
    assert "tasks" not in kept["chosen"]
    weights = tmp_path / "cache" / "everlearn" / "weights"
    weights.mkdir(parents=True)
    save_file(build_model("slim_resnet18").backbone.state_dict(), weights / "slim_resnet18.safetensors")
    result = everlearn.json("learn", folder, "--run", tmp_path / "r2", "--tasks", 1)
    assert result["method"] == "ncm"
    kept = tomllib.loads((tmp_path / "r2" / "config.toml").read_text())
    assert kept["learner"]["weights"] == str(weights / "slim_resnet18.safetensors")


def test_a_finished_run_goes_on(everlearn, tmp_path):
    first = picture_folder(tmp_path / "first", n=5)
    second = picture_folder(tmp_path / "second", ("cow",), n=5, size=20)
    everlearn.json("learn", first, "--run", tmp_path / "r", "--tasks", 1, "--memory", 8, "--method", "er")
    result = everlearn.json("learn", second, "--run", tmp_path / "r")
    assert result["samples_seen"] == 12
    assert [len(row) for row in result["accuracy_matrix"]] == [2, 2]
    said = everlearn.json("predict", tmp_path / "r", second / "cow" / "0.png")
    assert set(said["predictions"][0]["probabilities"]) == {"cat", "dog", "cow"}
    assert "leave --memory out" in everlearn.refused("learn", first, "--run", tmp_path / "r", "--memory", 9)
    assert "leave --set iterations out" in everlearn.refused(
        "learn", first, "--run", tmp_path / "r", "--set", "iterations=2"
    )
    assert "does not exist" in everlearn.refused("learn", tmp_path / "none", "--run", tmp_path / "r")
    assert everlearn.json("learn", "--resume", tmp_path / "r")["samples_seen"] == 12


def test_a_method_that_needs_borders_is_refused_before_anything_is_written(everlearn, tmp_path):
    first, second = picture_folder(tmp_path / "first", n=5), picture_folder(tmp_path / "second", ("cow", "hen"), n=5)
    run, few = tmp_path / "r", ("--memory", 8, "--tasks", 1)
    said = everlearn.refused("learn", first, "--run", run, "--method", "lwf", "--scenario", "blurred", *few)
    assert "method lwf needs task borders, and scenario blurred has none: take a scenario with borders" in said
    separated = ("--method", "er", "--set", "loss=separated")
    assert "loss 'separated' needs task borders" in everlearn.refused(
        "learn", first, "--run", run, *separated, "--scenario", "blurred", *few
    )
    watched = ("--watch", tmp_path / "watched")
    (tmp_path / "watched").mkdir()
    assert "a folder that is watched has none" in everlearn.refused(
        "learn", first, "--run", run, "--method", "lwf", *few, *watched
    )
    assert not run.exists()
    everlearn.json("learn", first, "--run", run, "--method", "lwf", *few)
    before = (run / "config.toml").read_bytes()
    assert "scenario blurred has none" in everlearn.refused("learn", second, "--run", run, "--scenario", "blurred")
    assert "watched has none" in everlearn.refused("learn", "--run", run, *watched)
    assert "watched has none" in everlearn.refused("learn", second, "--run", run, *watched)
    assert (run / "config.toml").read_bytes() == before
    assert everlearn.json("learn", second, "--run", run, "--tasks", 1)["samples_seen"] == 16


def test_json_has_every_measure_of_the_run(everlearn, tmp_path):
    from everlearn.runs import Run, evaluate_source

    folder, few = picture_folder(tmp_path / "pictures", n=10), ("--memory", 8, "--tasks", 1)
    er = everlearn.json("learn", folder, "--run", tmp_path / "er", "--method", "er", "--set", "average=0", *few)
    with Run.open(tmp_path / "er") as run:
        held_out = evaluate_source(run, str(folder))
    assert abs(er["calibration_error"] - held_out["calibration_error"]) < 1e-6
    # 10 samples forward and backward, then 6 with the 8 remembered; nothing is looked at: no class is known yet
    assert er["forwards_per_sample"] == (10 + 8 + 6) * 3 / 16
    der = everlearn.json("learn", folder, "--run", tmp_path / "der", "--method", "der", "--set", "average=0", *few)
    assert der["memory_bytes"] >= er["memory_bytes"] + 8 * 2 * 4  # a logit of each class for each sample
    again = everlearn.json("learn", "--resume", tmp_path / "er")
    names = ("calibration_error", "forwards_per_sample", "memory_bytes")
    assert [again[name] for name in names] == [er[name] for name in names]
