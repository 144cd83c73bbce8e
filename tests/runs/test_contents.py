"""A source that changes while it is learned is refused in one line; one that has been learned may change."""

import shutil

import pytest

from everlearn.errors import RunError
from everlearn.runs import Config, Run, evaluate_source, go_on_with, learn
from everlearn.runs.config import Continuation

from .test_kill import last
from .test_learn_on import folder_of


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "pictures", (0, 1), slice(0, 30))


def settings(folder) -> Config:
    return Config.of({
        "data": {"source": str(folder)}, "stream": {"tasks": 1, "scenario": "shuffled"}, "checkpoint_every": 1,
        "learner": {"method": "er", "memory": 20},
    })  # fmt: skip


def stop(at: int):
    """Stands for a kill behind the checkpoint of a step."""

    def show(moment):
        if moment.step == at:
            raise KeyboardInterrupt

    return show


def interrupted(folder, path, at=3):
    with Run.create(path, settings(folder)) as run, pytest.raises(KeyboardInterrupt):
        learn(run, stop(at))
    return path


def resumed(path):
    with Run.open(path, write=True) as run:
        learn(run)


def kept(path):
    with Run.open(path) as run:
        tables = ("sources", "contents", "samples", "events", "forgotten")
        return {table: [tuple(row) for row in run.journal.db.rows(f"SELECT * FROM {table}")] for table in tables}


def more(folder):
    first = min((folder / "digit 0").iterdir())
    for name in ("later1.png", "later2.png"):
        shutil.copy(first, folder / "digit 1" / name)


def fewer(folder):
    shutil.move(min((folder / "digit 1").iterdir()), folder.parent / "away.png")


def renamed(folder):
    file = min((folder / "digit 1").iterdir())
    file.rename(file.with_name("renamed.png"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (more, r"2 samples more: first digit 1/later1.png; 0 gone"),
        (fewer, "0 samples more; 1 gone"),
        (renamed, r"1 samples more: first digit 1/renamed.png; 1 gone"),
    ],
)
def test_a_source_that_changed_is_refused_until_it_is_restored(folder, tmp_path, change, found):
    with Run.create(tmp_path / "whole", settings(folder)) as run:
        learn(run)
    path, copy = interrupted(folder, tmp_path / "r"), shutil.copytree(folder, tmp_path / "copy")
    before = kept(path)
    change(folder)
    with pytest.raises(
        RunError, match=rf"has changed since .*{found}.*expected the 60 samples of then.*everlearn learn"
    ):
        resumed(path)
    assert kept(path) == before
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    resumed(path)
    assert last(path) == last(tmp_path / "whole")
    counted = [(name, id_) for id_, _, _, name in kept(path)["samples"]]
    assert len(counted) == len({name for name, _ in counted}) == 48


def test_a_source_that_was_learned_may_change(folder, tmp_path):
    path = tmp_path / "r"
    with Run.create(path, settings(folder)) as run:
        learn(run)
    more(folder)
    resumed(path)
    second = folder_of(tmp_path / "second", (2,), slice(0, 20))
    with Run.open(path, write=True) as run:
        assert evaluate_source(run, str(folder))["samples"] > 0
        go_on_with(run, Continuation(data={"source": str(second)}, stream={"tasks": 1}))
        with pytest.raises(KeyboardInterrupt):
            learn(run, stop(run.progress.step + 1))
    fewer(folder)
    with Run.open(path, write=True) as run:
        learn(run)
        assert run.finished
        assert run.progress.samples_seen == 48 + 16


def test_nothing_learned_yet_begins_with_what_there_is(folder, tmp_path):
    path = tmp_path / "r"
    config = settings(folder).model_copy(update={"checkpoint_every": 100})
    with Run.create(path, config) as run, pytest.raises(KeyboardInterrupt):
        learn(run, stop(2))
    more(folder)
    resumed(path)
    assert len({name for *_, name in kept(path)["samples"]}) == 50
    resumed(path)


def test_what_was_forgotten_stays_so_when_a_changed_source_is_learned_anew(folder, tmp_path):
    path = tmp_path / "r"
    with Run.create(path, settings(folder).model_copy(update={"checkpoint_every": 100})) as run:
        with pytest.raises(KeyboardInterrupt):
            learn(run, stop(2))
        id_, _, _, name = tuple(run.journal.db.rows("SELECT * FROM samples")[0])
        run.journal.forget(id_, 0.0)
    more(folder)
    resumed(path)
    assert name not in {name for *_, name in kept(path)["samples"]}


@pytest.mark.parametrize("changed", [False, True])
def test_runs_from_before_fingerprints_open(folder, tmp_path, changed):
    path = interrupted(folder, tmp_path / "r")
    with Run.open(path, write=True) as run:
        run.journal.db.execute("DROP TABLE contents")
        run.journal.db.commit()
        run.journal.db.rows("PRAGMA user_version = 5")
    if changed:
        more(folder)
        with pytest.raises(RunError, match=r"it holds 62 samples\); expected the 60 samples"):
            resumed(path)
        return
    resumed(path)
    assert len(kept(path)["contents"]) == 1
