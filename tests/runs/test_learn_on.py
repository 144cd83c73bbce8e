"""A finished run goes on with further sources: new samples and classes, each sample once, the same bits after kills."""

import random

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.errors import RunError, SettingError
from everlearn.report import report_run
from everlearn.runs import Config, Run, evaluate_source, go_on_with, learn
from everlearn.runs.config import Continuation

from .test_kill import last, start


def folder_of(path, classes, samples):
    """Digits of some classes as a class folder of PNG files."""
    digits = load_digits()
    for c in classes:
        (path / f"digit {c}").mkdir(parents=True)
        for i in (digits.target == c).nonzero()[0][samples]:
            Image.fromarray((digits.images[i] * 255 / 16).astype("uint8")).save(path / f"digit {c}" / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return (
        folder_of(folder / "first", (0, 1, 2), slice(0, 50)),
        folder_of(folder / "second", (2, 3, 4), slice(50, 100)),
        folder_of(folder / "third", (5,), slice(0, 30)),
    )


def settings(folder) -> Config:
    return Config.of({
        "data": {"source": str(folder)}, "stream": {"tasks": 3}, "checkpoint_every": 5,
        "learner": {"method": "er", "memory": 60},
    })  # fmt: skip


@pytest.fixture(scope="module")
def run_of_two(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "r"
    with Run.create(path, settings(folders[0])) as run:
        learn(run)
    with Run.open(path, write=True) as run:
        go_on_with(run, Continuation(data={"source": str(folders[1])}, stream={"tasks": 2}))
        learn(run)
    return path


def test_heads_grow_and_every_sample_counts_once(run_of_two):
    with Run.open(run_of_two) as run:
        assert run.finished
        learner = run.learner()
        assert [run.journal.class_names()[c] for c in learner.classes.codes] == [f"digit {c}" for c in range(5)]
        assert run.progress.samples_seen == 3 * 40 + 3 * 40
        counted = run.journal.db.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS d, MAX(id) AS m FROM samples")[0]
        assert (counted["n"], counted["d"]) == (240, 240)
        assert counted["m"] >= 150  # ids of the second source follow those of the first
        assert [row["task"] for row in run.journal.db.rows("SELECT DISTINCT task FROM steps")] == [0, 1, 2, 3, 4]
        sources = run.journal.db.rows("SELECT * FROM sources ORDER BY number")
        assert [(row["first_id"], row["samples"]) for row in sources] == [(0, 150), (150, 150)]
        assert len(run.journal.events("went on")) == 1


def test_the_matrix_covers_both_sources(run_of_two):
    with Run.open(run_of_two) as run:
        matrix = run.progress.matrix
    assert [[v is not None for v in row].count(True) for row in matrix] == [1, 2, 3, 4, 5]
    assert {len(row) for row in matrix} == {5}
    assert matrix[4][4] > 0.5  # one class of five


def test_evaluate_knows_what_was_held_out_of_each_source(run_of_two, folders):
    with Run.open(run_of_two) as run:
        for folder, classes in zip(folders[:2], ((0, 1, 2), (2, 3, 4))):
            result = evaluate_source(run, str(folder))
            assert result["samples"] == 30
            assert result["part"] == "held out when the run learned from it"
            assert list(result["classes"]) == [f"digit {c}" for c in classes]
        assert evaluate_source(run, str(folders[2]))["unknown_classes"] == ["digit 5"]


def test_the_report_draws_on_both_sources(run_of_two):
    with Run.open(run_of_two) as run:
        page = report_run(run, cases=5).read_text()
    assert page.count('<article class="case">') == 5
    assert "digit 4" in page


def test_a_source_of_one_new_class(run_of_two, folders, tmp_path):
    import shutil

    path = shutil.copytree(run_of_two, tmp_path / "r")
    with Run.open(path, write=True) as run:
        go_on_with(run, Continuation(data={"source": str(folders[2])}, stream={"tasks": 1}))
        learner = learn(run)
        assert len(learner.classes.codes) == 6
        assert run.progress.samples_seen == 240 + 24


def test_what_is_refused_leaves_the_run_as_it_was(run_of_two, folders, tmp_path):
    before = (run_of_two / "config.toml").read_text()
    with Run.open(run_of_two, write=True) as run:
        with pytest.raises(SettingError, match="holds a run already, which knows"):
            go_on_with(run, Continuation(data={"source": str(folders[1])}))
        with pytest.raises(SettingError, match="has 1 classes to learn"):
            go_on_with(run, Continuation(data={"source": str(folders[2])}, stream={"tasks": 2}))
    assert (run_of_two / "config.toml").read_text() == before
    with Run.create(tmp_path / "new", settings(folders[0])) as run, pytest.raises(RunError, match="has not finished"):
        go_on_with(run, Continuation(data={"source": str(folders[1])}))


def test_kills_while_it_goes_on_leave_no_trace(run_of_two, folders, tmp_path):
    path, rng, kills = tmp_path / "r", random.Random(1), 0
    with Run.create(path, settings(folders[0])) as run:
        learn(run)
    words = ["learn", folders[1], "--run", path, "--tasks", 2]
    while True:
        begun = "[[more]]" in (path / "config.toml").read_text()
        process = start(*(["learn", "--resume", path] if begun else words), "--json")
        process.join(rng.uniform(0.05, 0.4) if kills < 5 else 120)
        if process.exitcode is not None:
            break
        process.kill()
        process.join(30)
        kills += 1
    assert process.exitcode == 0
    assert kills >= 2
    assert last(path) == last(run_of_two)
