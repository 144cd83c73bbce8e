"""Killed at random moments, a run goes on to the same bits as one that never was."""

import hashlib
import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest

from everlearn.cli.main import run as main
from everlearn.runs import Run
from everlearn.runs.checkpoints import steps

KILLS = 20


def start(*words: object) -> multiprocessing.Process:
    """The command, in a process of its own that takes over this one's argv and nothing of its threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["everlearn.cli.main"])
    process, argv = context.Process(target=main), sys.argv
    try:
        sys.argv = ["everlearn", *map(str, words)]
        process.start()
    finally:
        sys.argv = argv
    return process


def last(run: Path) -> str:
    """Hash over the files of the last checkpoint."""
    folder = run / "checkpoints" / f"{steps(run / 'checkpoints')[-1]:08d}"
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.iterdir()))).hexdigest()


def words(run: Path) -> list[object]:
    settings = ["--memory", 60, "--set", "candidates=20", "--checkpoint-every", 7]
    return ["learn", "builtin:digits", "--run", run, *settings, "--json"]


def samples(run: Path) -> tuple[int, int, list[list[float | None]]]:
    with Run.open(run) as opened:
        learned = opened.journal.db.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS d FROM samples")[0]
        assert learned["n"] == learned["d"]
        return learned["n"], sum(row["samples"] for row in opened.journal.steps()), opened.progress.matrix


def test_twenty_kills_leave_no_trace(tmp_path):
    begun = time.monotonic()
    whole = start(*words(tmp_path / "whole"))
    whole.join(300)
    assert whole.exitcode == 0
    usual = time.monotonic() - begun
    expected, counted = last(tmp_path / "whole"), samples(tmp_path / "whole")
    assert counted[:2] == (1438, 1438)

    rng, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        run = tmp_path / f"run{runs}"
        while True:
            known = (run / "config.toml").exists()
            process = start(*(["learn", "--resume", run, "--json"] if known else words(run)))
            if kills < KILLS:
                process.join(rng.uniform(0.05, 0.35) * usual)
            else:
                process.join(300)
            if process.exitcode is None:
                process.kill()
                process.join(30)
                kills += 1
                continue
            assert process.exitcode == 0
            break
        assert last(run) == expected
        assert samples(run) == counted


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    from everlearn.runs import Config, learn

    config = Config.of({
        "data": {"source": "builtin:digits"}, "checkpoint_every": 10,
        "learner": {"method": "er", "memory": 50}, "stream": {"tasks": 1, "batch": 20},
    })  # fmt: skip
    with Run.create(tmp_path / "r", config) as run:
        learn(run)
    expected = last(tmp_path / "r")
    file = tmp_path / "r" / "checkpoints" / f"{steps(tmp_path / 'r' / 'checkpoints')[-1]:08d}" / "state.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-5] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with Run.open(tmp_path / "r", write=True) as run:
        assert len(run.warnings) == 1
        assert str(file.parent) in run.warnings[0]
        learn(run)
        assert [row["kind"] for row in run.journal.events("warning")] == ["warning"]
    assert last(tmp_path / "r") == expected
    assert samples(tmp_path / "r")[:2] == (1438, 1438)
