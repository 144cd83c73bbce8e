"""Runs that two processes learn together: killed, resumed by as many or by others, and what a dying process says."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from everlearn.runs import Run
from everlearn.runs.checkpoints import steps

SETTINGS = ["--memory", 61, "--set", "candidates=20", "--checkpoint-every", 7, "--json"]
ONE_OF_SEVERAL = """
import os, sys
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), EVERLEARN_PROCESSES=meeting)
sys.argv = ["everlearn", *words]
sys.stdout, sys.stderr = open(out, "w"), open(out + ".err", "w")
from everlearn.cli.main import run
run()
"""


class Together:
    """The command in several processes, each forked from one that has imported everything."""

    def __init__(self, folder: Path, words: list[object], world: int = 2) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["everlearn.cli.main"])
        folder.mkdir()
        known = {"world": world, "meeting": str(folder), "words": [str(word) for word in words]}
        self.processes = [
            context.Process(target=exec, args=(ONE_OF_SEVERAL, known | {"rank": rank, "out": str(folder / f"{rank}")}))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> None:
        for process in self.processes:
            process.join(500)
        assert [process.exitcode for process in self.processes] == [0] * len(self.processes)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join(30)


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{steps(run / 'checkpoints')[-1]:08d}" / "state.safetensors")


def checked(run: Path) -> list[list[float | None]]:
    """Every sample counted once; the accuracy matrix."""
    with Run.open(run) as opened:
        learned = opened.journal.db.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS d FROM samples")[0]
        assert learned["n"] == learned["d"] == 1438 == opened.progress.samples_seen
        assert sum(row["samples"] for row in opened.journal.steps()) == 1438
        assert opened.learner().memory.size == 61
        return opened.progress.matrix


@pytest.mark.parametrize(
    ("method", "worlds"),
    [("er", [2]), pytest.param("aser", [2, 1, 3], marks=pytest.mark.slow)],
)
def test_killed_runs_go_on_with_two_to_the_same_bits_and_with_others(tmp_path, method, worlds):
    words = ["learn", "builtin:digits", "--method", method, *SETTINGS, "--run"]
    words = words if method == "aser" else [word for word in words if word not in ("--set", "candidates=20")]
    Together(tmp_path / "a", [*words, tmp_path / "whole"]).wait()
    expected, matrix = state(tmp_path / "whole"), checked(tmp_path / "whole")
    assert len(matrix) == 5
    assert (tmp_path / "a" / "0").read_text().startswith("{") and (tmp_path / "a" / "1").read_text() == ""

    for world in worlds:
        run = tmp_path / f"run{world}"
        begun = Together(tmp_path / f"b{world}", [*words, run])
        end = time.monotonic() + 500
        while not steps(run / "checkpoints") or steps(run / "checkpoints")[-1] < 14 * world:
            assert time.monotonic() < end
            time.sleep(0.01)
        begun.kill()
        Together(tmp_path / f"c{world}", ["learn", "--resume", run, "--json"], world).wait()
        again = checked(run)
        if world == 2:
            found = state(run)
            assert found.keys() == expected.keys() and again == matrix
            assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
        with Run.open(run) as opened:
            kinds = [row["kind"] for row in opened.journal.events()]
            assert kinds.count("resumed") == 1


def test_unreadable_pictures_are_told_by_whichever_process_met_them(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(30):
            pixels = torch.randint(256, (16, 16, 3), generator=rng, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "in" / name / f"{i}.png")
        for i in (3, 4, 17):
            file = tmp_path / "in" / name / f"{i}.png"
            file.write_bytes(file.read_bytes()[:60])
    words = ["learn", tmp_path / "in", "--run", tmp_path / "run", "--method", "er", "--memory", 10, "--batch", 1]
    Together(tmp_path / "m", [*words, "--json"]).wait()
    with Run.open(tmp_path / "run") as run:
        bad = run.journal.quarantined()
        held = sum(Path(row["name"]).stem in ("3", "4", "17") for row in bad)
        assert 0 < len(bad) == held <= 6 and run.progress.quarantined == held
        assert run.progress.samples_seen == sum(row["samples"] for row in run.journal.steps()) == 48 - held


@pytest.mark.slow
def test_a_process_that_dies_is_told_in_one_line_and_the_run_is_intact(tmp_path):
    run = tmp_path / "run"
    words = ["learn", "builtin:digits", "--run", run, "--method", "er", "--memory", 61, "--checkpoint-every", 5]
    command = [sys.executable, "-m", "everlearn", *map(str, words), "--json", "--processes", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not steps(run / "checkpoints"):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    children = [int(pid) for pid in os.popen(f"ps --ppid {process.pid} -o pid=").read().split()]
    victim = next(pid for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.strip() == "everlearn: rank 1 of 2 died (SIGKILL); the other processes were stopped"
    Together(tmp_path / "m", ["learn", "--resume", run, "--json"]).wait()
    checked(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["builtin:digits", "--run", "RUN", "--method", "gdumb"], "GDumb trains on all of memory at once"),
        (["builtin:digits", "--run", "RUN", "--method", "er", "--memory", "1"], "memory is 1 for 2 processes"),
        (["--watch", "HERE", "--run", "RUN"], "everlearn: --watch learns in one process; leave --processes out"),
        (["--resume", "RUN"], "RUN is not a run"),
    ],
)
def test_what_several_processes_refuse(tmp_path, words, message):
    run = tmp_path / "r"
    begun = Together(tmp_path / "m", ["learn", *({"RUN": run, "HERE": tmp_path}.get(word, word) for word in words)])
    for process in begun.processes:
        process.join(100)
        assert process.exitcode == 2
    files = [file for file in (tmp_path / "m").iterdir() if file.name in ("failed-own-0", "0.err", "1.err")]
    told = [text for file in files if (text := file.read_text())]
    assert len(told) == 1 and told[0].replace(str(run), "RUN").startswith(message)
    assert not run.exists()
