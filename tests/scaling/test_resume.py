"""A run of two processes, killed, goes on: with two to the same bits, with one and four to the same loss.

With exact sums it goes on to the same bits with one and four as well.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everlearn.scaling.checkpoint import load_model, newest
from everlearn.scaling.processes import launch

CHANGES = {"steps": 80, "checkpoint_every": 5, "valid_batches": 2, "evaluate_every": 20, "global_batch": 8}
SLOW = {"decay": 0}, {"lr": 0.001}  # a higher rate makes rounding grow from step to step


def command(config, run, *more):
    return ["-m", "everlearn.cli", "pretrain", str(config), "--json", "--run", str(run), *more]


def journal(run):
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in lines}


def killed(config, run):
    """Start two processes and kill them all after their second checkpoint."""
    process = subprocess.Popen([sys.executable, *command(config, run, "--processes", "2")], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while not (run / "checkpoints" / "00000010").exists():
        assert process.poll() is None and time.monotonic() < end, "no checkpoint came"
        time.sleep(0.02)
    children = os.popen(f"ps --ppid {process.pid} -o pid=").read().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(_lives(pid) for pid in children):
        assert time.monotonic() < end, "processes outlive the one that started them"
        time.sleep(0.05)
    return newest(run / "checkpoints")[1].step


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{}, {"tp": 2}], ids=["sharded data", "tensor parallel"])
def test_a_killed_run_goes_on_with_two_one_and_four_processes(tiny, tmp_path, layout):
    config = tmp_path / "config.toml"
    config.write_text(tiny(train=CHANGES, schedule=SLOW[0], optimiser=SLOW[1], layout=layout).dump())
    launch(command(config, tmp_path / "whole"), 2, 300)
    step = killed(config, tmp_path / "two")
    assert 10 <= step < 80
    for name in ("one", "four"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
    alone = tmp_path / "alone.toml"
    alone.write_text(tiny(train=CHANGES, schedule=SLOW[0], optimiser=SLOW[1]).dump())
    launch(command(config, tmp_path / "two"), 2, 300)
    launch(command(alone, tmp_path / "one"), 1, 300)
    launch(command(config, tmp_path / "four"), 4, 300)

    runs = {name: tmp_path / name for name in ("whole", "two", "one", "four")}
    files = [load_file(file) for file in sorted((runs["whole"] / "checkpoints" / "00000080").glob("*.safetensors"))]
    again = [load_file(file) for file in sorted((runs["two"] / "checkpoints" / "00000080").glob("*.safetensors"))]
    assert len(files) == len(again) > 0
    for whole, resumed in zip(files, again):  # weights and moments of both processes, to the bit
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    expected = journal(runs["whole"])
    for name in ("one", "four"):
        told = journal(runs[name])
        near = [step + 1, min(80, step + 5)]
        assert [told[s]["loss"] for s in near] == pytest.approx([expected[s]["loss"] for s in near], rel=1e-4)
        assert told[80]["valid_loss"] == pytest.approx(expected[80]["valid_loss"], rel=1e-4)
        assert load_model(runs[name] / "checkpoints")[1].tokens == load_model(runs["whole"] / "checkpoints")[1].tokens


@pytest.mark.parametrize(
    "model",
    [{}, pytest.param({"experts": 4, "top_k": 2, "expert_ffn": 16, "dense_layers": 1}, marks=pytest.mark.slow)],
    ids=["dense", "mixture"],
)
def test_with_exact_sums_a_killed_run_goes_on_with_one_and_four_processes_to_the_same_bits(tiny, tmp_path, model):
    config = tmp_path / "config.toml"
    train = CHANGES | {"steps": 40}
    config.write_text(tiny(train=train, layout={"exact": True, "micro_batch": 1}, model=model).dump())
    launch(command(config, tmp_path / "whole"), 1, 300)
    assert 10 <= killed(config, tmp_path / "two") < 40
    shutil.copytree(tmp_path / "two", tmp_path / "four")
    launch(command(config, tmp_path / "two"), 1, 300)
    launch(command(config, tmp_path / "four"), 4, 300)

    whole, expected = tensors(tmp_path / "whole"), journal(tmp_path / "whole")
    for name in ("two", "four"):
        resumed, told = tensors(tmp_path / name), journal(tmp_path / name)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())
        assert [told[s]["loss"] for s in range(1, 41)] == [expected[s]["loss"] for s in range(1, 41)]
        assert [told[s]["norm"] for s in range(1, 41)] == [expected[s]["norm"] for s in range(1, 41)]


def tensors(run):
    """Weights and moments of the last checkpoint, whole."""
    return {
        key: x
        for file in (run / "checkpoints" / "00000040").glob("*.safetensors")
        for key, x in load_file(file).items()
    }
