"""A disk that is full, or may not be written."""

import os
import subprocess
import sys

import pytest

from everlearn.errors import RunError
from everlearn.runs import Config, Run, evaluate_source, learn


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


CONFIG = Config.of({
    "data": {"source": "builtin:digits"}, "checkpoint_every": 20, "stream": {"batch": 20},
    "learner": {"method": "er", "memory": 50, "backbone": "slim_resnet18"},
})  # fmt: skip


def test_a_full_disk_leaves_the_run_intact(small_disk, tmp_path):
    with Run.create(tmp_path / "whole", CONFIG) as run:
        learn(run)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 3 * 2**20)  # two checkpoints of 4.4 MiB do not fit beside it
    with Run.create(small_disk / "r", CONFIG) as run, pytest.raises(RunError, match=r"No space left|disk is full"):
        learn(run)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    with Run.open(small_disk / "r", write=True) as run:
        learn(run)
    names = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (small_disk / "r" / "checkpoints").iterdir())
    for name in ("state.safetensors", "state.json"):
        whole = (tmp_path / "whole" / "checkpoints" / names[-1] / name).read_bytes()
        assert (small_disk / "r" / "checkpoints" / names[-1] / name).read_bytes() == whole


def test_a_run_is_read_where_nothing_can_be_written(small_disk):
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    with Run.create(small_disk / "r", CONFIG) as run:
        learn(run)
        journal = small_disk / "r" / "journal.sqlite-wal"
        log = journal.read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Run.open(small_disk / "r") as run:
        assert evaluate_source(run, "builtin:digits")["samples"] == 359
    with pytest.raises(RunError, match=r"cannot write to .*Read-only"):
        Run.open(small_disk / "r", write=True)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    journal.write_bytes(log)  # as a run that was killed leaves it
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match=r"cannot be written, and journal.sqlite-wal in it is not taken .* copy the run"):
        Run.open(small_disk / "r")


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the run's directory"):
        Run.create(tmp_path / "file" / "r", CONFIG)
    with pytest.raises(RunError, match="is a file; a run needs a directory"):
        Run.create(tmp_path / "file", CONFIG)
