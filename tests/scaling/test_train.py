"""Runs: resumed to the bit, resharded, guarded, and told about in one line when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everlearn.errors import DataError, RunError, SettingError
from everlearn.models.language_hf import load as load_hf
from everlearn.scaling.checkpoint import load_model, newest, tensors_of
from everlearn.scaling.pretrain import finished, generate, prepare, pretrain
from everlearn.scaling.processes import launch
from everlearn.scaling.settings import Settings
from everlearn.scaling.train import Training

WORKER = str(Path(__file__).with_name("reshard_worker.py"))


class Stopped(Exception):
    """Raised in the middle of a run."""


def weights(folder):
    return load_model(folder / "checkpoints")[0].state_dict()


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items()) and set(a) == set(b)


@pytest.mark.parametrize(
    "changes", [{}, {"optimiser": {"name": "muon"}}, {"model": {"experts": 4, "top_k": 2, "expert_ffn": 16}}]
)
def test_a_run_that_stops_goes_on_to_the_same_bits(tiny, tmp_path, changes):
    settings = tiny(**changes)
    loss = pretrain(settings, tmp_path / "whole")

    def stop(moment):
        if moment.step == 8:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain(settings, tmp_path / "cut", stop)
    assert newest(tmp_path / "cut" / "checkpoints")[1].step == 5
    assert pretrain(settings, tmp_path / "cut") == loss
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert loss < 5.5
    assert pretrain(settings, tmp_path / "cut") == loss  # ended already: validated once more, nothing learned


def test_a_killed_process_goes_on_to_the_same_bits(tiny, tmp_path):
    settings = tiny(train={"steps": 400, "checkpoint_every": 20, "valid_batches": 1}, schedule={"decay": 0})
    (tmp_path / "config.toml").write_text(settings.dump())
    command = [sys.executable, "-m", "everlearn.cli", "pretrain", str(tmp_path / "config.toml"), "--json", "--run"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "killed" / "checkpoints" / "00000020").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = newest(tmp_path / "killed" / "checkpoints")[1]
    assert 20 <= state.step < 400
    shorter = tiny(train={"steps": state.step + 7, "checkpoint_every": 20, "valid_batches": 1}, schedule={"decay": 0})
    pretrain(shorter, tmp_path / "killed")
    pretrain(shorter, tmp_path / "whole")
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_two_processes_to_one_and_to_four(tiny, tmp_path):
    settings = tiny(train={"steps": 6, "checkpoint_every": 3}, layout={"tp": 1})
    (tmp_path / "config.toml").write_text(settings.dump())
    run = tmp_path / "run"
    launch(["-m", "everlearn.cli", "pretrain", str(tmp_path / "config.toml"), "--json", "--run", str(run)], 2, 400)
    expected = tmp_path / "expected.safetensors"
    launch([WORKER, str(run), "{}", str(expected)], 1, 400)
    assert {"model.embed.weight", "optimiser.embed.weight.exp_avg"} <= set(load_file(expected))
    launch([WORKER, str(run), json.dumps({"tp": 2}), str(expected)], 4, 400)
    alone = tiny(train={"steps": 6, "checkpoint_every": 3})
    pretrain(alone, tmp_path / "alone")
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(run)[name], tensor, rtol=1e-3, atol=1e-4)
    longer = tiny(train={"steps": 9, "checkpoint_every": 3})
    pretrain(longer, run)
    assert newest(run / "checkpoints")[1].step == 9


@pytest.mark.parametrize("layout", [{"pp": 2}, {"tp": 2}, {"cp": 2}])
def test_other_layouts_train_validate_and_save_as_one_process_does(tiny, tmp_path, layout):
    settings = tiny(train={"steps": 4}, layout=layout)
    (tmp_path / "config.toml").write_text(settings.dump())
    command = [
        "-m",
        "everlearn.cli",
        "pretrain",
        str(tmp_path / "config.toml"),
        "--json",
        "--run",
        str(tmp_path / "run"),
    ]
    launch(command, 2, 400)
    told = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[-1])
    alone = pretrain(tiny(train={"steps": 4}), tmp_path / "alone")
    assert told["valid_loss"] == pytest.approx(alone, rel=1e-4)
    assert set(weights(tmp_path / "run")) == set(weights(tmp_path / "alone"))


def test_accumulating_smaller_batches_is_the_same_step(tiny, tmp_path):
    pretrain(tiny(layout={"micro_batch": 4}, train={"steps": 3}), tmp_path / "a")
    pretrain(tiny(layout={"micro_batch": 1}, train={"steps": 3}), tmp_path / "b")
    for name, tensor in weights(tmp_path / "a").items():
        torch.testing.assert_close(weights(tmp_path / "b")[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"recompute": "full"}, {"recompute": "selective"}])
def test_precision_and_recomputation_learn_as_well(tiny, tmp_path, changes):
    plain = pretrain(tiny(), tmp_path / "a")
    assert pretrain(tiny(layout=changes), tmp_path / "b") == pytest.approx(plain, rel=0.02)


def training(settings, folder):
    prepare(settings, folder)
    return Training(settings, folder)


def test_a_loss_that_is_not_finite_goes_back_and_leaves_the_batch_out(tiny, tmp_path):
    made = training(tiny(), tmp_path / "run")
    poisoned = []

    def poison(moment):
        if moment.step == 7 and not poisoned:
            poisoned.append(next(iter(made.engine.parameters())))
            with torch.no_grad():
                poisoned[0][0, 0] = float("nan")

    made.run(poison)
    assert made.state.step == 12
    assert made.state.skipped == [7]
    assert all(p.isfinite().all() for p in made.engine.parameters())
    journal = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert ["back to step 5, without batch 7" in entry["note"] for entry in journal].count(True) == 1
    drawn = []
    for made.state.step in range(12):
        drawn.append(made._batch_number())
    assert drawn == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def test_a_batch_left_out_does_not_move_the_experts_balance(tiny, tmp_path):
    settings = tiny(model={"experts": 4, "top_k": 1, "expert_ffn": 16}, train={"balance_rate": 0.1})
    poisoned, clean = training(settings, tmp_path / "poisoned"), training(settings, tmp_path / "clean")
    passes, seen = poisoned.engine.forward_backward, []

    def poison(tokens, labels):
        loss = passes(tokens, labels)
        if poisoned.state.step == 7 and not seen:
            seen.append(loss)
            return loss * float("nan")
        return loss

    poisoned.engine.forward_backward = poison
    poisoned.run()
    clean.state.skipped = [7]
    clean.run()
    assert seen and poisoned.state == clean.state
    assert same(tensors_of(poisoned.engine), tensors_of(clean.engine))
    poisoned.engine.forward_backward = lambda *batch: passes(*batch) * float("nan")
    poisoned.step()
    assert all(not router.counts.any() for router in poisoned.engine.routers())


def test_a_spike_goes_back_too(tiny, tmp_path):
    made = training(tiny(train={"steps": 30, "spike": 1.0}), tmp_path / "run")
    ruined = []

    def ruin(moment):
        if moment.step == 27 and not ruined:
            ruined.append(moment.loss)
            with torch.no_grad():
                made.engine.stages[0].norm.weight.mul_(-30)  # finite, and wrong about every token

    made.run(ruin)
    assert made.state.step == 30
    assert made.state.skipped == [27]
    journal = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert sum("back to step 25, without batch 27" in entry["note"] for entry in journal) == 1
    assert journal[-1]["loss"] < ruined[0] + 1.0


def test_a_step_is_judged_once_before_it_is_taken(tiny, tmp_path):
    """The rule holds from the step after the 21st on; the 21st itself may spike."""
    made = training(tiny(train={"steps": 24, "spike": 1.0}), tmp_path / "run")
    passes = made.engine.forward_backward
    made.engine.forward_backward = lambda *batch: passes(*batch) + (5.0 if made.state.step == 20 else 0.0)
    made.run()
    assert (made.state.step, made.state.skipped) == (24, [])


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(tiny, tmp_path):
    plain = pretrain(tiny(), tmp_path / "a")
    assert pretrain(tiny(layout={"compile": True}), tmp_path / "b") == pytest.approx(plain, rel=1e-4)


def test_a_learning_rate_that_ruins_all_is_told(tiny, tmp_path):
    with pytest.raises(RunError, match="lower the learning rate or look at the data"):
        pretrain(tiny(optimiser={"lr": 1e18, "clip": 0.0}), tmp_path / "run")


def test_a_checkpoint_cut_short_is_passed_over(tiny, tmp_path):
    pretrain(tiny(), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    last, before = sorted(folder.glob("0*"))[::-1][:2]
    file = next(last.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    assert newest(folder)[1].step == int(before.name)
    next(before.glob("*.safetensors")).unlink()
    with pytest.raises(RunError, match="are damaged"):
        newest(folder)


def test_a_checkpoint_with_a_damaged_header_is_told_by_all_who_read_it(tiny, tmp_path, caplog):
    pretrain(tiny(), tmp_path / "run")
    file = next(max((tmp_path / "run" / "checkpoints").glob("0*")).glob("*.safetensors"))
    whole = bytearray(file.read_bytes())
    whole[8:40] = b"\xff" * 32
    file.write_bytes(whole)
    readers = [
        lambda: pretrain(tiny(), tmp_path / "run"),
        lambda: finished(tmp_path / "run"),
        lambda: pretrain(tiny(start=str(tmp_path / "run")), tmp_path / "other"),
    ]
    for read in readers:
        with pytest.raises(
            RunError, match=r"00000012 cannot be read: .*; move it away to go on from the one"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert "Traceback" not in caplog.text


def test_what_does_not_belong_to_the_run_is_told(tiny, tmp_path):
    pretrain(tiny(train={"steps": 2}), tmp_path / "run")
    with pytest.raises(RunError, match="is of another model: its ffn is 48, the configuration's 64"):
        pretrain(tiny(model={"ffn": 64}), tmp_path / "run")
    with pytest.raises(RunError, match="is of a vocabulary of 257, the model of 100"):
        pretrain(tiny(model={"vocab": 100}), tmp_path / "other")
    with pytest.raises(DataError, match="there is no data file"):
        pretrain(tiny(data={"train": ["none.txt"]}), tmp_path / "third")
    with pytest.raises(SettingError, match=r"setting train\.steps is 0"):
        tiny(train={"steps": 0})
    with pytest.raises(SettingError, match="unknown model setting 'width'"):
        tiny(model={"width": 3}).language(257)
    with pytest.raises(SettingError, match="kv_rank"):
        Settings.of(tiny().model_dump() | {"model": {"preset": "deepseek-v3"}}).language()


def test_watched_files_are_told_each_by_its_own_name(tiny, tmp_path):
    names = ["w.en.txt", "w.ko.txt", "w.ko.md"]
    for name in names:
        (tmp_path / name).write_text(f"{name} " * 200)
    settings, told = tiny(train={"steps": 1}, data={"watch": [str(tmp_path / name) for name in names]}), []
    pretrain(settings, tmp_path / "run", told.append)
    assert list(told[-1].watched) == ["w.en", "w.ko.txt", "w.ko.md"]
    assert len(set(told[-1].watched.values())) == 3
    with pytest.raises(SettingError, match=r"data.watch has w.tokens twice; .* rename one"):
        tiny(data={"watch": ["a/w.tokens", "b/w.tokens"]})


def test_the_trained_model_speaks_and_is_exported(tiny, tmp_path):
    from typer.testing import CliRunner

    from everlearn.cli.main import app

    (tmp_path / "config.toml").write_text(tiny(train={"steps": 60}).dump())
    arguments = ["pretrain", str(tmp_path / "config.toml"), "--run", str(tmp_path / "run"), "--json"]
    result = CliRunner().invoke(
        app, [*arguments, "--prompt", "the ", "--length", "20", "--export", str(tmp_path / "hf")]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["text"].startswith("the ")
    assert told["loss"] < 3.0
    model, tokenizer, _ = finished(tmp_path / "run")
    assert generate(model, tokenizer.encode("the "), 5) == generate(model, tokenizer.encode("the "), 5)
    exported = load_hf(tmp_path / "hf").eval()
    tokens = torch.tensor([tokenizer.encode("the cell")])
    torch.testing.assert_close(exported(tokens), model(tokens))
    with pytest.raises(SettingError, match="nothing to go on from"):
        generate(model, [], 3)


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too soon"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "message"), [(signal.SIGKILL, r"rank 1 of 2 died (SIGKILL)"), (signal.SIGSTOP, "no step ended within 15 s")]
)
def test_a_rank_that_dies_or_hangs_is_told_in_one_line(tiny, tmp_path, how, message):
    settings = tiny(train={"steps": 100000, "checkpoint_every": 50000, "timeout": 15.0}, schedule={"decay": 0})
    (tmp_path / "config.toml").write_text(settings.dump())
    command = [sys.executable, "-m", "everlearn.cli", "pretrain", str(tmp_path / "config.toml"), "--json"]
    command += ["--processes", "2", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        wait_for((tmp_path / "run" / "journal.jsonl").exists, process)
        children = [int(pid) for pid in os.popen(f"ps --ppid {process.pid} -o pid=").read().split()]
        ranks = {rank_of(pid): pid for pid in children}
        os.kill(ranks["1"], how)
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    lines = [line for line in told.splitlines() if line.startswith("everlearn:")]
    assert process.returncode == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in told
    time.sleep(0.5)
    assert not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children
    )


def rank_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return next((v.removeprefix("RANK=") for v in variables if v.startswith("RANK=")), None)
