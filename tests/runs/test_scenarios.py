"""Scenarios as a user names them: what is learned, what is held out, what is refused."""

import numpy as np
import pytest

from everlearn.data import open_source
from everlearn.errors import SettingError
from everlearn.runs import Config, Run, evaluate_source, learn, prepare
from everlearn.runs.scenario import parse

SLDA = {"method": "slda", "memory": 30, "options": {"inputs": "raw", "shrinkage": 0.1}}


def config(text: str, source: str = "builtin:digits") -> Config:
    data, stream = parse(text)
    return Config.of({"data": {"source": source, **data}, "stream": stream, "learner": SLDA, "alarms": False})


@pytest.mark.parametrize(
    ("text", "data", "stream"),
    [
        ("class", {}, {"scenario": "class"}),
        ("blurred:0.3", {}, {"scenario": "blurred", "blur": 0.3}),
        ("domain", {"shifts": ["none", "noise", "blur", "occlusion", "brightness"]}, {"scenario": "domain"}),
        ("long_tailed", {"long_tailed": 100.0}, {}),
        ("time+wrong_labels:0.4", {"wrong_labels": 0.4}, {"scenario": "time"}),
    ],
)
def test_a_name_stands_for_settings(text, data, stream):
    assert parse(text) == (data, stream)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rain", "scenario is 'rain'; expected class .default."),
        ("class+site", "scenario is 'class.site'; expected"),
        ("long_tailed+long_tailed:3", "expected"),
        ("site:3", "scenario site takes no value, and 'site:3' has one"),
        ("blurred:much", "scenario 'blurred:much'; expected a number behind the colon"),
    ],
)
def test_bad_scenarios_get_one_line(text, message):
    with pytest.raises(SettingError, match=message):
        parse(text)


def test_a_long_tail_with_wrong_labels_is_learned_and_the_tests_stay(tmp_path):
    asked = config("long_tailed:20+wrong_labels:0.2")
    source = open_source("builtin:digits")
    (stream,) = prepare(asked).streams
    learned = np.concatenate(stream.tasks)
    counts = np.bincount(stream.source.labels[learned], minlength=10)
    assert len(learned) < 600 and len(np.concatenate(stream.tests())) == int(source.test.sum())
    original = {name: int(label) for name, label in zip(source.names, source.labels)}
    wrong = sum(original[stream.source.names[i]] != stream.source.labels[i] for i in learned)
    assert wrong == round(0.2 * len(learned)) and counts[0] > counts[9]
    with Run.create(tmp_path / "r", asked) as run:
        learn(run)
        assert run.progress.samples_seen == len(learned)
        found = evaluate_source(run, "builtin:digits")
        assert found["samples"] == int(source.test.sum()) and found["accuracy"] > 0.6
        # rows of the journal bear the names of what was learned, and the given label
        names = {row["id"]: row["name"] for row in run.journal.db.rows("SELECT * FROM samples")}
        assert set(names.values()) == {stream.source.names[i] for i in learned}


def test_domains_measure_tasks_to_come(tmp_path):
    with Run.create(tmp_path / "r", config("domain:none,noise:1,brightness:5")) as run:
        learn(run)
        matrix = run.progress.matrix
    assert all(value is not None for row in matrix for value in row)  # every class is known after the first task
    assert matrix[0][0] > matrix[0][2]  # a strong shift is not known before it is learned


def test_a_resumed_run_keeps_its_scenario(tmp_path):
    asked = config("blurred:0.5+wrong_labels:0.1")
    assert Config.load((tmp_path / "c.toml", (tmp_path / "c.toml").write_text(asked.dump()))[0]) == asked
    first, again = (np.concatenate(prepare(asked).streams[0].tasks) for _ in range(2))
    assert (first == again).all()
    sharp = np.concatenate(prepare(config("class")).streams[0].tasks)
    assert sorted(first) == sorted(sharp) and (first != sharp).any()
