"""Layouts equal one process, and the comparison finds what it is there to find."""

import json
import os
import time

import pytest
import torch
from typer.testing import CliRunner

from everlearn.cli.main import app
from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling import parity_run
from everlearn.scaling.mesh import check, complete
from everlearn.scaling.parallelise import shards
from everlearn.scaling.parity import Row, Trace, compare, layouts, trace
from everlearn.scaling.parity_run import run
from everlearn.scaling.pipeline import blocks_of
from everlearn.scaling.settings import Layout


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_short_parity_of_two_processes():
    rows = run(2, short=True, timeout=300)
    assert [row.layout for row in rows if not row.passed] == []
    assert {row.model for row in rows} == {"dense", "moe"}
    assert {"dp2 fsdp", "tp2 sp", "pp2 1f1b", "cp2 gather", "dp2 ep2 fsdp"} <= {row.layout for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_parity_of_every_layout(processes):
    rows = run(processes, timeout=1800)
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize("inject", [2.0, 512.0, 1 / 2])
def test_a_gradient_of_the_wrong_size_is_found(inject):
    config = LanguageConfig(layers=1, hidden=16, heads=2, ffn=16, vocab=32, seq_len=8)
    reference = trace(config, Layout(micro_batch=8), 1)
    assert max(compare(reference, trace(config, Layout(micro_batch=2), 1))) < 1e-5
    _, norm, weights = compare(reference, trace(config, Layout(micro_batch=2), 1, inject))
    assert norm > 0.4
    assert weights > 0.4


def test_the_command_tells_a_fault_by_its_exit_code():
    result = CliRunner().invoke(app, ["parity", "--only", "dp2 copies", "--model", "dense", "--inject", "2", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["passed"] is False
    assert [row["layout"] for row in told["rows"]] == ["dp2 copies"]
    assert told["rows"][0]["norm"] == pytest.approx(1.0, abs=0.2)


def test_layouts_of_four_processes_hold_the_products():
    words = {layout.words for model in ("dense", "moe") for layout in layouts(4, model)}
    assert {"dp2 tp2 fsdp sp", "tp2 pp2 sp 1f1b", "pp2 cp2 1f1b gather", "dp4 shard2", "tp2 cp2 sp ulysses"} <= words
    assert {"dp4 ep4 fsdp", "dp2 tp2 ep2 fsdp sp", "dp2 pp2 ep2 fsdp 1f1b"} <= words


def test_bad_questions_are_refused():
    with pytest.raises(SettingError, match="1 processes; parity compares 2 or more"):
        run(1)
    with pytest.raises(SettingError, match="no layout of 2 processes has 'tp7'"):
        run(2, only="tp7")
    with pytest.raises(SettingError, match="unknown model 'rnn'"):
        run(2, models=("rnn",))


SMALL = LanguageConfig(layers=2, hidden=32, heads=4, kv_heads=2, ffn=16, vocab=64, seq_len=16)


@pytest.mark.parametrize(
    ("layout", "world", "message"),
    [
        (Layout(dp=3), 4, "does not fill 4 processes; change one, or start 3"),
        (Layout(tp=4), 2, "does not fill 2 processes"),
        (Layout(shard=3), 4, "dp 4 does not divide by shard 3"),
        (Layout(ep=3), 4, "ep must be a multiple of cp and divide shard × cp = 4"),
        (Layout(pp=2, vpp=2), 2, "vpp 2 with schedule '1f1b'"),
        (Layout(pp=2, schedule="zbv"), 4, "FSDP2 loses gradients there"),
        (Layout(tp=4), 4, "2 kv_heads do not divide by tp 4"),
        (Layout(cp=16), 16, "16 tokens of a sequence do not divide by cp × 2"),
        (Layout(ep=2), 2, "ep 2 for a model without experts"),
        (Layout(pp=5), 5, "2 layers for 5 stages"),
        (Layout(tp=2, exact=True), 4, "exact sums need whole copies"),
        (Layout(dp=2, micro_batch=3), 2, "8 sequences of a step do not divide by dp × micro_batch 6"),
    ],
)
def test_layouts_that_do_not_fit_are_refused_in_one_line(layout, world, message):
    with pytest.raises(SettingError, match=message):
        check(complete(layout, world), SMALL, 16, 8)


def test_what_fsdp_does_not_wrap_has_whole_copies_and_casts_by_itself():
    """Autocast is for these: FSDP2 would cast, and zero-bubble schedules go without it."""
    assert shards(Layout(dp=2)) and shards(Layout(dp=1, cp=2)) and shards(Layout(dp=2, pp=2))
    assert not shards(Layout(dp=1, pp=2)) and not shards(Layout(dp=2, exact=True))
    assert not shards(Layout(dp=2, pp=2, vpp=2, zero=0, schedule="zero-bubble"))


def test_exact_sums_want_a_power_of_two():
    with pytest.raises(SettingError, match="12 sequences in passes of 1: 12 passes a step; expected a power of two"):
        check(complete(Layout(exact=True), 4), SMALL, 16, 12)


def test_no_process_is_left_behind():
    children = os.popen(f"ps --ppid {os.getpid()} -o args=").read()
    assert "everlearn.scaling.parity_run" not in children


def test_a_layout_that_fails_or_hangs_costs_its_row_only(tmp_path):
    def wrong():
        raise ValueError("a stage was lost\nand more")

    assert parity_run._together([lambda: None, lambda: None], tmp_path, 60) == ""
    begun = time.monotonic()
    assert parity_run._together([lambda: time.sleep(60), wrong], tmp_path, 60) == "rank 1: a stage was lost"
    (tmp_path / "error-1").unlink()
    assert parity_run._together([lambda: os.kill(os.getpid(), 9)], tmp_path, 60) == "rank 0 ended with status 9"
    assert parity_run._together([lambda: time.sleep(60)], tmp_path, 0.5) == "rank 0 still ran after 0.5 s"
    assert time.monotonic() - begun < 30
    assert not Row("dense", "dp2", 0.0, 0.0, 0.0, "rank 0 died").passed


def test_references_come_back_from_their_files(tmp_path):
    config = LanguageConfig(layers=1, hidden=16, heads=2, ffn=16, vocab=32, seq_len=8)
    reference = trace(config, Layout(micro_batch=8), 1)
    parity_run._save(reference, tmp_path / "dense")
    assert compare(parity_run._load(tmp_path / "dense"), reference) == (0, 0, 0)


@pytest.mark.parametrize(("layers", "stages"), [(78, 80), (79, 80), (126, 128), (128, 16), (5, 4), (4, 8), (13, 4)])
def test_stages_hold_every_block_once_and_in_order(layers, stages):
    parts = [blocks_of(i, layers, stages) for i in range(stages)]
    assert [block for part in parts for block in part] == list(range(layers))
    if (layers + 2) % stages == 0 and stages > 4:
        assert all(len(part) == (layers + 2) // stages for part in parts[1:-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 65}, "65 processes; expected 1 to 64 on one machine"),
        ({"processes": 10**15}, "expected 1 to 64 on one machine"),
        ({"processes": 2, "timeout": float("nan")}, "timeout is nan; expected 1 to 1e[+]06 seconds"),
        ({"processes": 2, "timeout": float("inf")}, "timeout is inf"),
        ({"processes": 2, "timeout": -5.0}, "timeout is -5"),
        ({"processes": 2, "inject": float("nan")}, "inject is nan; expected a number between"),
        ({"processes": 2, "inject": 1e300}, "inject is 1e[+]300"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_process_starts(settings, message):
    with pytest.raises(SettingError, match=message):
        parity_run.run(**settings)


def test_a_refusal_is_one_line_without_the_table_s_head(capsys):
    assert "timeout is nan" in str(CliRunner().invoke(app, ["parity", "--timeout", "nan"]).exception)
    assert "errors after" not in capsys.readouterr().err


def test_errors_that_are_no_numbers_never_pass():
    nan = float("nan")
    for errors in ((0.0, nan, 0.0), (0.0, 0.0, nan), (nan, 0.0, 0.0)):
        assert not Row("dense", "dp2", *errors).passed
    same, lost = torch.ones(2), torch.full((2,), nan)
    reference = Trace([1.0, 1.0], [1.0, 1.0], {"w": same}, {"w": 2 * same})
    other = Trace([1.0, nan], [1.0, nan], {"w": same}, {"w": lost})
    assert compare(reference, other) == (float("inf"),) * 3
