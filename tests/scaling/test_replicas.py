"""Replica groups: a step is the same step however many take part, and one that is killed heals."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from everlearn.errors import RunError, SettingError
from everlearn.scaling.groups import run_groups
from everlearn.scaling.pretrain import prepare, pretrain
from everlearn.scaling.replicas import Replicas, library
from everlearn.scaling.train import Training

WORKER = Path(__file__).parent / "replicas_worker.py"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_all_of_a_step_and_nearly_equal(count):
    parts = []
    for rank in range(count):
        seat = Replicas.__new__(Replicas)
        seat.manager = SimpleNamespace(participating_rank=lambda rank=rank: rank, num_participants=lambda: count)
        parts.append(seat.share(8))
    assert parts[0][0] == 0 and parts[-1][1] == 8
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    sizes = [last - first for first, last in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("living", [1, 2])
def test_mfu_counts_the_devices_of_all_groups_that_live(tiny, tmp_path, living):
    settings, told = tiny(train={"steps": 3, "peak_tflops": 0.01}), []
    prepare(settings, tmp_path / "run")
    made = Training(settings, tmp_path / "run")
    made.replicas = SimpleNamespace(
        begin=lambda: None, share=lambda units: (0, units // living), sum=lambda _, loss, *rest: loss, lost=False,
        commit=lambda fine: fine, leads=True, leave=lambda: None, living=living)  # fmt: skip
    made.run(told.append)
    for now in told:
        assert now.mfu == pytest.approx(now.tokens_per_second * made._flops / (0.01e12 * living))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchft", None)
    with pytest.raises(SettingError, match=r"pip install everlearn\[torchft\]"):
        library()
    with pytest.raises(SettingError, match=r"pip install everlearn\[torchft\]"):
        run_groups(["-c", ""], 2, print)


def test_a_group_without_a_lighthouse_is_told_so(monkeypatch):
    pytest.importorskip("torchft")
    monkeypatch.delenv("TORCHFT_LIGHTHOUSE", raising=False)
    with pytest.raises(SettingError, match="name the lighthouse"):
        Replicas(0, 1.0, dict, lambda _: None)


def test_groups_that_all_fail_end_the_run():
    pytest.importorskip("torchft")
    told = []
    with pytest.raises(RunError, match="ended with code 3"):
        run_groups(["-c", "raise SystemExit(3)"], 2, told.append)
    assert len(told) <= 6


@pytest.mark.slow
def test_a_killed_group_heals_and_all_end_with_the_same_weights(tiny, tmp_path):
    pytest.importorskip("torchft")
    config, folder, told = tmp_path / "config.toml", tmp_path / "run", []
    settings = tiny(train={"steps": 40, "global_batch": 8, "checkpoint_every": 10}, optimiser={"lr": 0.001})
    config.write_text(settings.dump())
    run_groups([str(WORKER), str(config), str(folder), "12"], 2, told.append)
    assert len(told) == 1 and "group 1 of 2 died (SIGKILL)" in told[0]
    first, second = (torch.load(folder / f"weights-{group}.pt") for group in (0, 1))
    assert int((folder / "killed").read_text()) == 12 and 22 <= int((folder / "healed").read_text()) <= 24
    assert set(first) == set(second) and any(name.startswith("optimiser.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)

    alone = tmp_path / "alone"
    loss = pretrain(settings, alone)
    steps = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps] == list(range(1, 41))
    assert steps[-1]["valid_loss"] == pytest.approx(loss, abs=1e-4)
