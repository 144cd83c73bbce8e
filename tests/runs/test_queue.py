"""Steps that are read off together: nothing is read in between, and what is entered, told and kept is the same."""

import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from everlearn.errors import SettingError
from everlearn.learners import METHODS, StepReport, learner
from everlearn.models import Model
from everlearn.runs import Config, Run, learn, prepare
from everlearn.runs.checkpoints import steps
from everlearn.runs.session import Session

LEARNING = sys.modules["everlearn.runs.learn"]  # a function of the package has its name
CONFIG = Config.of({
    "data": {"source": "builtin:digits"}, "stream": {"tasks": 2, "batch": 20}, "checkpoint_every": 18,
    "learner": {"method": "er", "memory": 50, "precision": "float32"},
})  # fmt: skip


class Patient(Session):
    """As on an accelerator, seven steps are read off at once."""

    def __init__(self, *words):
        super().__init__(*words)
        self.together = 7


def entered(run: Run) -> list[list[tuple]]:
    """All that the journal says, but for the time."""
    found = []
    for table in ("steps", "looks", "samples", "events", "evaluations"):
        rows = run.journal.db.rows(f"SELECT * FROM {table}")
        found.append([tuple(row[name] for name in row.keys() if name != "at") for row in rows])  # noqa: SIM118
    return found


def test_all_is_as_if_each_step_were_read_off_by_itself(tmp_path, monkeypatch):
    told, kept, rows = [], [], []
    for name, session in (("each", Session), ("together", Patient)):
        monkeypatch.setattr(LEARNING, "Session", session)
        shown = []
        with Run.create(tmp_path / name, CONFIG) as run:
            kept.append(learn(run, shown.append).state_dict())
            rows.append(entered(run))
            assert steps(run.path / "checkpoints")[-1] == run.progress.step == 73
        with Run.open(tmp_path / name) as run:
            kept[-1] |= {"alarms": torch.tensor(list(run.progress.alarms["counts"].values()))}
        told.append(shown)
    assert rows[0] == rows[1] and len(rows[0][0]) == 73
    assert [repr(moment) for moment in told[0]] == [repr(moment) for moment in told[1]]
    assert kept[0].keys() == kept[1].keys() and all(kept[0][key].equal(kept[1][key]) for key in kept[0])


def test_a_loss_that_is_not_finite_is_never_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(LEARNING, "Session", Patient)
    prepared = prepare(CONFIG)
    observe = prepared.learner.observe

    def spoiled(batch):
        report = observe(batch)
        return StepReport(report.step, report.loss * torch.nan, report.samples) if report.step == 31 else report

    monkeypatch.setattr(prepared.learner, "observe", spoiled)
    with Run.create(tmp_path / "r", CONFIG) as run:
        with pytest.raises(SettingError, match=r"the loss is nan at step 31; .* go on from step 18, which is intact"):
            learn(run, None, prepared)
        assert steps(run.path / "checkpoints") == [18]
        assert run.journal.steps()[-1]["step"] == 30


def test_nothing_is_read_off_the_device_until_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "drawing_from", lambda seed, device: nullcontext())  # the device without values has
    monkeypatch.setattr(learner.Learner, "autocast", lambda self: nullcontext())  # neither of these
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    prepared = prepare(CONFIG)
    with Run.create(tmp_path / "r", CONFIG) as run:
        streams = run.number_all(prepared.streams)
        session = Session(run, METHODS["aser"](Model(backbone, 6), memory=50, device="meta"), streams, (1, 8, 8))
        assert session.together > 8
        for batch in list(streams[0].batches(20))[:8]:
            session.step(batch, partial(str), 1000)
        assert len(session.queue) == run.progress.step == 8
        assert any(step.asked.said is not None for step in session.queue)
        with pytest.raises(RuntimeError, match="meta"):
            session.read_off()
