"""A full disk, a directory that cannot be written, a damaged state, a second server: one clear line, nothing lost."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

pytest.importorskip("fastapi", reason="serving is an extra")
from fastapi.testclient import TestClient

from everlearn.cli.serve import serve
from everlearn.errors import RunError
from everlearn.runs import Run, checkpoints
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews
from everlearn.runs.versions import Versions
from everlearn.server import Settings, create_app


def mount(folder, *options):
    command = ["mount", "-t", "tmpfs", "-o", *options, "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")


@pytest.fixture
def small_disk(run_path, tmp_path):
    """The run on a file system of its own that is 24 MiB larger than it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    need = sum(file.stat().st_size for file in run_path.rglob("*") if file.is_file())
    mount(disk, f"size={need // 1024 + 24 * 1024}k")
    shutil.copytree(run_path, disk / "run")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk, leaving=0):
    """Take all of a disk but so many bytes."""
    left = shutil.disk_usage(disk).free - leaving
    with (disk / "filler").open("wb") as file:
        file.write(b"x" * left)


def finish(reviewing):
    while reviewing.work():
        pass
    return {name: tensor.clone() for name, tensor in reviewing.learner.state_dict().items()}


def test_a_full_disk_refuses_verdicts_and_goes_on_predicting(small_disk, run_path, verdicts, pictures):
    with Run.open(small_disk / "run", write=True) as run:
        reviews = Reviews(run.journal.db)
        Reviewing(run, reviews)
    app = create_app(Settings(small_disk / "run", learns=False))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        case = client.get("/api/v1/worklist").json()["cases"][0]["id"]
        verdict = {"case_id": case, "verdict": "correct", "label": "1", "note": "x" * 4000}
        fill(small_disk)
        answers = [client.post("/api/v1/reviews", json=verdict | {"key": f"key-{i:05d}"}) for i in range(40)]
        kept = [answer.json()["number"] for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert refused and {answer.status_code for answer in refused} == {503}
        line = refused[-1].json()["detail"]
        assert "disk is full" in line and "nothing was changed" in line and "\n" not in line
        assert client.get(f"/api/v1/cases/{case}").status_code == 200
        (small_disk / "filler").unlink()
        assert client.post("/api/v1/reviews", json=verdict | {"key": "key-after"}).status_code == 201
        known = [row["number"] for row in client.get("/api/v1/reviews").json()]
        assert sorted(known)[:-1] == kept
        assert client.get("/api/v1/audit/verify").json()["fault"] is None


@pytest.mark.parametrize("leaving", [0, 2**20, 5 * 2**20])
def test_a_writer_on_a_full_disk_stops_in_one_line_and_later_learns_to_the_same_bits(
    small_disk, run_path, verdicts, leaving
):
    wanted = None
    for path, full in ((run_path, False), (small_disk / "run", True)):
        with Run.open(path, write=True) as run:
            reviews = Reviews(run.journal.db)
            reviewing = Reviewing(run, reviews, publish_after=0.0)
            for verdict in verdicts[:4]:
                reviews.add(verdict)
            if full:
                fill(small_disk, leaving)
                with pytest.raises(RunError, match=r"No space left|disk is full") as told:
                    finish(reviewing)
                assert "intact" in str(told.value) or "nothing was changed" in str(told.value)
                (small_disk / "filler").unlink()
            else:
                wanted = finish(reviewing)
    with Run.open(small_disk / "run", write=True) as run:
        reviews = Reviews(run.journal.db)
        found = finish(Reviewing(run, reviews))
        learned = [row["review"] for row in reviews.learned()]
        assert len(learned) == len(set(learned)) == 4 and reviews.verify_audit().fault is None
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("served_before", [False, True])
def test_a_directory_that_may_not_be_written_is_refused(small_disk, served_before):
    if served_before:
        (small_disk / "run" / "secret").write_bytes(b"s" * 32)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match=r"cannot (use|write to) .*[Rr]ead-only"):
        serve(small_disk / "run", port=8999)


def test_the_server_starts_from_the_last_good_state(run_path, verdicts, opened):
    desk = opened(publish_after=0.0)
    for verdict in verdicts[:5]:
        desk.reviews.add(verdict)
    wanted = finish(desk.reviewing)
    number = desk.reviews.in_service()["number"]
    desk.close()
    for folder, steps in (("checkpoints", checkpoints.steps(run_path / "checkpoints")), ("versions", [number])):
        for step in steps:
            file = run_path / folder / f"{step:08d}" / "state.safetensors"
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1  # one bit
            file.unlink()
            file.write_bytes(content)
    desk = opened()
    assert {row["number"] for row in desk.reviews.versions()} >= {number + 1}
    found = finish(desk.reviewing)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    now = desk.reviews.in_service()["number"]
    served = Versions(run_path).load(now)[1]
    assert all(torch.equal(wanted[name], served[name]) for name in wanted)
