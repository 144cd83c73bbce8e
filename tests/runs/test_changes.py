"""Settings given to a run that goes on: the same, changed so that the run can be learned again, or refused."""

import pytest

from everlearn.errors import SettingError
from everlearn.runs import Config, Run, learn
from everlearn.runs.changes import change, changes

from .test_kill import last


def config(lr=0.1, **more) -> Config:
    return Config.of({
        "data": {"source": "builtin:digits"}, "stream": {"batch": 50}, "checkpoint_every": 10,
        "learner": {"method": "er", "memory": 40, "lr": lr}, **more,
    })  # fmt: skip


class Stopped(Exception):
    """As if the process had been killed."""


def begin(path, upto, **settings):
    """A run stopped after some steps."""

    def show(moment):
        if moment.step == upto:
            raise Stopped

    with Run.create(path, config(**settings)) as run, pytest.raises(Stopped):
        learn(run, show)


def go_on(path, **given):
    with Run.open(path, write=True) as run:
        change(run, changes(run, given))
        learn(run)
        return [(row["step"], row["detail"]) for row in run.journal.events("changed")]


def test_another_rate_is_kept_and_the_run_can_be_learned_again(tmp_path):
    begin(tmp_path / "r", 25)
    assert go_on(tmp_path / "r", lr=0.01) == [(24, '{"lr": 0.01}')]  # where a task ended
    kept = Config.load(tmp_path / "r" / "config.toml")
    assert [(rate.step, rate.lr) for rate in kept.rates] == [(24, 0.01)]
    with Run.create(tmp_path / "again", kept) as run:  # from the beginning, by the kept settings alone
        learn(run)
    assert last(tmp_path / "again") == last(tmp_path / "r")
    with Run.create(tmp_path / "unchanged", config()) as run:
        learn(run)
    assert last(tmp_path / "unchanged") != last(tmp_path / "r")


def test_a_rate_before_the_first_checkpoint_is_the_runs_own(tmp_path):
    begin(tmp_path / "r", 5, lr=0.5, chosen={"lr": "0.5: a guess"})
    go_on(tmp_path / "r", lr=0.05)
    kept = Config.load(tmp_path / "r" / "config.toml")
    assert (kept.learner.lr, kept.rates, kept.chosen) == (0.05, [], {})
    with Run.create(tmp_path / "whole", config(lr=0.05)) as run:
        learn(run)
    assert last(tmp_path / "whole") == last(tmp_path / "r")


def test_what_does_not_change_learning_can_be_changed(tmp_path):
    begin(tmp_path / "r", 15)
    go_on(tmp_path / "r", workers=1, checkpoint_every=7, alarms=False, memory=40, seed=0, options={"iterations": 1})
    kept = Config.load(tmp_path / "r" / "config.toml")
    assert (kept.workers, kept.checkpoint_every, kept.alarms, kept.rates) == (1, 7, False, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "aser"}, "--method is 'aser', and .* goes on with 'er': leave --method out"),
        ({"memory": 41}, "--memory is 41, and .* goes on with 40"),
        ({"seed": 1}, "--seed is 1"),
        ({"replay": 5}, "--replay is 5, and .* goes on with a choice of its own"),
        ({"options": {"iterations": 2}}, "--set iterations is 2, and .* goes on with 1"),
        ({"options": {"k": 2}}, "ER has no setting 'k'"),
        ({"batch": 20}, "--batch is 20, and .* goes on with 50.*can be changed is --lr, --workers"),
        ({"scenario": "shuffled"}, "--scenario is 'shuffled'"),
        ({"wrong_labels": 0.2}, "--scenario is 0.2"),
        ({"holdout": 0.3}, "--holdout is 0.3"),
        ({"size": 16}, "--size is 16"),
        ({"lr": -1.0}, "setting learner.lr is -1.0"),
        ({"workers": 65}, "setting workers is 65"),
    ],
)
def test_what_cannot_be_changed_is_refused(tmp_path, given, message):
    with Run.create(tmp_path / "r", config()) as run:
        before = (tmp_path / "r" / "config.toml").read_text()
        with pytest.raises(SettingError, match=message):
            change(run, changes(run, given, run.config.parts[0]))
        assert (tmp_path / "r" / "config.toml").read_text() == before
