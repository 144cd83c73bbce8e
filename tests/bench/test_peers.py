"""Peers in one run: the same stream and model, one line for what is not installed."""

import json
from importlib.util import find_spec

import pytest

from everlearn.bench import peers
from everlearn.bench.continual import Setting, into_memory, thinned
from everlearn.data import open_source
from everlearn.errors import SettingError


@pytest.fixture(scope="module")
def digits():
    return into_memory(thinned(open_source("builtin:digits"), train=20, test=10))


def test_the_bare_loop_and_ours_learn_alike(digits, tmp_path):
    rows = peers.run_peers(digits, Setting(tasks=1), 50, [0], ["bare", "everlearn"], tmp_path / "r.jsonl")
    assert [row["name"] for row in rows] == ["bare PyTorch loop", "Everlearn ER"]
    for row in rows:
        assert row["samples"] == 200
        assert row["seconds"] > 0
        assert row["accuracy"] > 0.25  # guessing gives 0.1
    text = peers.as_markdown(rows)
    assert "| bare PyTorch loop | 1 |" in text
    assert "| 1.00 |" in text


def test_the_table_says_what_is_missing_and_keeps_the_rest(tmp_path):
    said = []
    title, rows = peers.table(
        "builtin:digits", "everlearn,avalanche" if not find_spec("avalanche") else "everlearn", "20", 1, 2, 5,
        tmp_path / "r.jsonl", said.append,
    )  # fmt: skip
    assert [row["name"] for row in rows] == ["Everlearn ER"]
    assert ("Avalanche is not installed" in said[0]) == (find_spec("avalanche") is None)
    assert json.loads((tmp_path / "r.jsonl").read_text())["samples"] == 50
    assert "2 tasks, memory 20" in title


def test_a_table_goes_on_where_it_stopped(digits, tmp_path, monkeypatch):
    file, runs, stop = tmp_path / "r.jsonl", [], True

    def work(source, stream, setting, memory, seed):
        if stop and seed == 1:
            raise KeyboardInterrupt
        runs.append((setting.tasks, seed))
        return 1.0, 0.5

    monkeypatch.setitem(peers.PEERS, "bare", ("bare PyTorch loop", work))
    with pytest.raises(KeyboardInterrupt):
        peers.run_peers(digits, Setting(tasks=2), 50, [0, 1], ["bare"], file)
    stop = False
    first = peers.run_peers(digits, Setting(tasks=2), 50, [0, 1], ["bare"], file)
    assert peers.run_peers(digits, Setting(tasks=2), 50, [0, 1], ["bare"], file) == first
    assert runs == [(2, 0), (2, 1)]
    assert [json.loads(line) for line in file.read_text().splitlines()] == first
    peers.run_peers(digits, Setting(tasks=1), 50, [0], ["bare"], file)
    assert runs[2:] == [(1, 0)]


def test_what_is_refused(tmp_path):
    for words, message in ((("gem", None), "no line 'gem' in table 3"), ((None, "1,2"), "takes one whole number")):
        with pytest.raises(SettingError, match=message):
            peers.table("builtin:digits", *words, 1, None, None, tmp_path / "r", print)
