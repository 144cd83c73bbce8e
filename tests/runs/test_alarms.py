"""Alarms: false ones are as rare as they should be, real ones come, and a kill neither loses nor doubles one."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.data import Batch
from everlearn.learners import SCR
from everlearn.models import build_model
from everlearn.report import report_run
from everlearn.runs import Config, Run, learn
from everlearn.runs.drift import Adwin

STREAMS, LENGTH = 100, 2000


def batches(rng, rates):
    """Errors of ten samples at a time, at the rates given."""
    return [(rng.random(10) < rate).astype(float).tolist() for rate in rates]


def first_alarm(values) -> int | None:
    window = Adwin()
    return next((i for i, batch in enumerate(values) if window.add(batch)), None)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_false_alarms_on_stationary_streams_are_rare(rate):
    rng = np.random.default_rng(0)
    false = sum(first_alarm(batches(rng, [rate] * (LENGTH // 10))) is not None for _ in range(STREAMS))
    assert false <= 2  # of 100 streams of 2000 samples; delta bounds one look, and there are 200 of them


def test_learning_better_and_better_is_no_alarm():
    rng = np.random.default_rng(1)
    rates = np.linspace(0.9, 0.05, 200)
    assert all(first_alarm(batches(rng, rates)) is None for _ in range(20))


def test_a_rise_is_told_soon_and_with_its_size():
    rng, delays = np.random.default_rng(2), []
    for _ in range(50):
        found = first_alarm(batches(rng, [0.1] * 100 + [0.4] * 60))
        assert found is not None
        assert found >= 100
        delays.append(10 * (found - 99))
    assert np.mean(delays) < 150  # samples


def test_the_window_goes_on_from_its_state():
    rng = np.random.default_rng(3)
    values = batches(rng, [0.1] * 50 + [0.5] * 30)
    whole, first = Adwin(), Adwin()
    told = [whole.add(batch) for batch in values]
    again = [first.add(batch) for batch in values[:37]]
    second = Adwin(state=json.loads(json.dumps(first.state())))
    assert again + [second.add(batch) for batch in values[37:]] == told


def manifest(folder, corrupt: bool):
    """Digits 0 to 3 in order of time; from the 500th on upside down and inverted, if they are to be corrupted."""
    digits, rows = load_digits(), ["path,label,time"]
    chosen = np.random.default_rng(0).permutation((digits.target < 4).nonzero()[0])
    folder.mkdir()
    for time, i in enumerate(chosen):
        picture = digits.images[i] * 255 / 16
        if corrupt and time >= 500:
            picture = 255 - picture[::-1]
        Image.fromarray(picture.astype("uint8")).save(folder / f"{i}.png")
        rows.append(f"{i}.png,d{digits.target[i]},{time}")
    (folder / "m.csv").write_text("\n".join(rows))
    return folder / "m.csv"


def config(source) -> Config:
    return Config.of({
        "data": {"source": str(source), "holdout": 0.1}, "stream": {"scenario": "time", "tasks": 2},
        "learner": {"method": "slda", "memory": 100, "options": {"inputs": "raw", "shrinkage": 0.1}},
        "checkpoint_every": 20,
    })  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of a stationary stream, and of one that drifts."""
    folder, paths = tmp_path_factory.mktemp("alarms"), []
    for name in ("stationary", "drifting"):
        source = manifest(folder / name, corrupt=name == "drifting")
        with Run.create(folder / f"run {name}", config(source)) as run:
            learn(run)
        paths.append(run.path)
    return paths


def alarms(run: Run, kind: str) -> list[dict]:
    return [json.loads(row["detail"]) | {"step": row["step"]} for row in run.journal.alarms() if row["kind"] == kind]


def test_drift_is_told_and_its_absence_too(runs):
    with Run.open(runs[0]) as run:
        assert alarms(run, "drift") == []
        looks = run.journal.looks()
        assert sum(row["correct"] for row in looks) / sum(row["samples"] for row in looks) > 0.9
    with Run.open(runs[1]) as run:
        (first, *_) = alarms(run, "drift")
        assert 45 <= first["step"] <= 65  # the change comes at step 45 or so: a tenth is held out
        assert first["now"] < first["before"]


def test_every_class_is_told_once_with_its_first_sample(runs):
    with Run.open(runs[0]) as run:
        found = alarms(run, "new class")
        assert sorted(alarm["class"] for alarm in found) == ["d0", "d1", "d2", "d3"]
        for alarm in found:
            row = run.journal.db.rows("SELECT MIN(step) AS s FROM samples JOIN classes c ON c.code = samples.code "
                                    "WHERE c.name = ?", alarm["class"])[0]  # fmt: skip
            assert row["s"] == alarm["step"]


def test_going_back_tells_again_but_does_not_double(runs, tmp_path):
    path = shutil.copytree(runs[1], tmp_path / "r")
    with Run.open(path) as run:
        before = alarms(run, "drift")
    shutil.rmtree(max((path / "checkpoints").iterdir()))
    with Run.open(path, write=True) as run:
        assert run.progress.step < before[0]["step"] + 20
        learn(run)
        assert alarms(run, "drift") == before


def test_the_report_shows_them(runs):
    with Run.open(runs[1]) as run:
        page = report_run(run, cases=0).read_text()
    assert '<b class="weak">drift</b>: the true class was given' in page
    assert "new class d0, first seen in" in page


def test_learners_that_cannot_be_asked_cheaply_are_not_watched_for_drift(runs, tmp_path):
    source = runs[0].parent / "stationary" / "m.csv"
    settings = config(source).model_dump(exclude_none=True)
    settings["learner"] = {"method": "gdumb", "memory": 4, "options": {"epochs": 1}}
    with Run.create(tmp_path / "r", Config.of(settings)) as run:
        learn(run)
        assert run.journal.looks() == []
        assert len(alarms(run, "new class")) == 4


def test_the_head_is_watched_where_class_means_predict(runs, tmp_path):
    learner = {"method": "er", "memory": 100, "classifier": "ncm", "lr": 0.1, "options": {"iterations": 3}}
    told = []
    for path in runs:
        with Run.open(path) as other:
            settings = other.config.model_dump(exclude_none=True) | {"learner": learner}
        with Run.create(tmp_path / path.name, Config.of(settings)) as run:
            learn(run)
            told.append([alarm["step"] for alarm in alarms(run, "drift")])
    stationary, (first, *_) = told
    assert not stationary and 45 <= first <= 65


def test_scr_has_no_head_to_watch():
    learner = SCR(build_model(channels=1, size=8), memory=10, precision="float32")
    batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([3, 5]))
    learner.observe(batch)
    assert learner.look(batch.inputs) is None and learner.predict(batch.inputs).codes == [3, 5]
