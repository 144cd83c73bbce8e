"""The verb ``everlearn plan``: tables for people, JSON for machines, one line for what is wrong."""

import json

import pytest
import typer
from typer.testing import CliRunner

from everlearn.cli.plan import judge, plan
from everlearn.errors import SettingError
from everlearn.scaling.plan.cost import Cost

app = typer.Typer()
app.command()(plan)
ROW = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,"
    "data parallelism,pipeline parallelism,iteration time (ms)\n64,512,8,3072,32,30,2048,1,64,1,3566.5\n"
)


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_json_ranks_layouts_and_explains_the_best():
    result = call("llama3-8b", "--cluster", "h100:16", "--tokens", "1T", "--budget", "1M", "--days", 30, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    speeds = [each["tokens_per_second_per_device"] for each in found["plans"]]
    assert speeds == sorted(speeds, reverse=True)
    assert found["batch"].startswith("a step has ")
    assert found["plans"][0]["layout"]["devices"] == 16
    assert found["explanation"] and len(found["verdicts"]) == 2
    assert found["tokens"] == 1e12


def test_the_table_shows_layouts_and_writes_a_configuration(tmp_path):
    out = tmp_path / "run.toml"
    result = call("llama3-8b", "--cluster", "h100:16", "--top", 2, "--out", out)
    assert result.exit_code == 0
    assert "best: dp" in result.stdout and "limited by" in result.stdout
    again = call(out, "--cluster", "h100:16", "--json")  # its layout is kept
    assert json.loads(again.stdout)["layouts"] == 1


def test_validation(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(ROW)
    found = json.loads(call("--validate", file, "--json").stdout)
    assert found["format"] == "vtrain"
    assert found["means"]["seconds"]["rows"] == 1
    (row,) = found["rows"]
    assert row["error"] == pytest.approx(row["predicted"] / row["published"] - 1)
    assert "mean absolute error" in call("--validate", file).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected CONFIG and --cluster"),
        (("llama3-8b",), "expected CONFIG and --cluster"),
        (("llama3-8b", "--cluster", "h1000:8"), "unknown device 'h1000'"),
        (("llama3-9b", "--cluster", "h100:8"), "no model file or preset"),
        (("dense-1t", "--cluster", "h100:8"), "fits no layout"),
        (("llama3-8b", "--cluster", "h100:8", "--tokens", "lots"), "tokens is 'lots'"),
        (("llama3-8b", "--cluster", "h100:8", "--budget", "0"), "budget is '0'"),
        (("llama3-8b", "--cluster", "h100:8", "--precision", "int8"), "precision is 'int8'"),
        (("llama3-8b", "--cluster", "h100:8", "--stack", "old"), "stack is 'old'"),
        (("llama3-8b", "--cluster", "h100:8", "--top", "0"), "top is 0"),
        (("llama3-8b", "--cluster", "h100:8", "--out", "no/such/folder.toml"), "cannot write no/such/folder.toml"),
        (("--validate", "none.csv"), "cannot read none.csv"),
        (("llama3-8b", "--validate", "none.csv"), "leave CONFIG and --cluster out"),
        (("llama3-8b", "--cluster", "h100:8", "--days", "nan"), "days is nan; expected 0.001 to 1,000,000 days"),
        (("llama3-8b", "--cluster", "h100:8", "--days", "inf"), "days is inf"),
        (("llama3-8b", "--cluster", "h100:8", "--days", "0"), "days is 0"),
        (("llama3-8b", "--cluster", "h100:8", "--tokens", "1e999"), "tokens is '1e999'"),
        (("llama3-8b", "--cluster", "h100:8", "--tokens", "1e308T"), "and at most 1e+18"),
        (("llama3-8b", "--cluster", "h100:8", "--tokens", ""), "tokens is ''"),
        (("llama3-8b", "--cluster", "h100:8", "--tokens", "1,5T"), "tokens is '1,5T'"),
        (("llama3-8b", "--cluster", "h100:8", "--batch", "1e308T"), "batch is '1e308T'"),
        (("llama3-8b", "--cluster", "h100:²"), "expected DEVICE:NUMBER"),
        (("llama3-8b", "--cluster", "h100:٨"), "expected DEVICE:NUMBER"),
        (("llama3-8b", "--cluster", "h100:99999999"), "at most 10,000,000 devices"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    error = call(*arguments).exception
    assert isinstance(error, SettingError)
    assert message in str(error) and "\n" not in str(error)


DEVICE = "[device]\ntflops_bf16 = 900\nmemory_gib = 80\nhbm_tb_s = 3\nprocessors = 132\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device = 3\n", "device is 3; expected a table [device]"),
        ("network = 1\n" + DEVICE, "network is 1; expected a table [network]"),
        (DEVICE + "[network]\ndevice = 3\n", "device in [network]"),
        (DEVICE + "name = 3\n", "name is 3; expected a text"),
        (DEVICE + "gemm_efficiency = 5\n", "gemm_efficiency is 5; expected a number above 0, at most 1"),
        (DEVICE + "usd_per_hour = 1e308\n", "usd_per_hour is 1e+308; expected a number of 0 or more, at most 1e+09"),
        (DEVICE.replace("900", "1e-300"), "tflops_bf16 is 1e-300"),
        (DEVICE.replace("132", "1.5"), "processors is 1.5; expected a whole number"),
        (DEVICE + "[network]\ndevices_per_domain = 1.5\n", "devices_per_domain is 1.5; expected a whole number"),
    ],
)
def test_a_cluster_file_that_makes_no_sense_is_one_line(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    error = call("llama3-8b", "--cluster", f"{tmp_path / 'mine.toml'}:8").exception
    assert isinstance(error, SettingError) and message in str(error)


MODEL = "[model]\nlayers = 4\nhidden = 256\nheads = 4\nffn = 1024\nvocab = 1000\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\npreset = 3\n", "preset is 3; expected a preset's name"),
        (MODEL + "kv_heads = -1\n", "kv_heads is -1; expected 0 to"),
        (MODEL + "mtp = -100\n", "mtp is -100"),
        (MODEL + "window = -5\n", "window is -5"),
        (MODEL + "ffn_layers = 9\n", "ffn_layers is 9 of 4 layers; expected as many or fewer"),
        (MODEL.replace("256", "3"), "4 heads of hidden 3 have no width"),
        (MODEL.replace("256", "1" + "0" * 30), "hidden is 1" + "0" * 30),
        (MODEL + "[layout]\nmicro_batch = 0\n", "micro_batch is 0; expected 1 or more"),
        (MODEL + "[train]\nglobal_batch = 1" + "0" * 400, "expected a whole number of sequences"),
    ],
)
def test_a_model_that_makes_no_sense_is_one_line(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    error = call(tmp_path / "run.toml", "--cluster", "h100:8").exception
    assert isinstance(error, SettingError) and message in str(error)


def test_a_published_figure_that_nothing_compares_with_leaves_json_as_it_must_be(tmp_path):
    (tmp_path / "rows.csv").write_text(ROW.replace("3566.5", "1e-320"))
    found = json.loads(call("--validate", tmp_path / "rows.csv", "--json").stdout, parse_constant=pytest.fail)
    assert found["rows"] == [] and "its sizes make no run that can be predicted" in found["refused"][0]["reason"]


def test_a_chosen_layout_that_does_not_fit_or_divide_is_refused(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[model]\npreset = 'llama3-70b'\n[layout]\ntp = 2\nmicro_batch = 1\n")
    assert "does not fit: it needs" in str(call(file, "--cluster", "h100:8", "--batch", "64k").exception)
    file.write_text("[model]\npreset = 'llama3-70b'\n[layout]\ntp = 5\n")
    assert "tp × pp × cp = 5 does not divide 8 devices" in str(call(file, "--cluster", "h100:8").exception)


def test_verdicts():
    cost = Cost(tokens=1e12, steps=1, days=100, device_hours=1, usd=2e6, megawatt_hours=1)
    over = judge(cost, 64, 1e6, 50)
    assert over[0] == "over 50 days: 100.0; about 128 devices, or 50% of tokens"
    assert over[1].endswith("the money lasts for 5e+11 tokens")
    assert [line.split()[0] for line in judge(cost, 64, 3e6, 200)] == ["within", "within"]
    assert judge(cost, 64, None, None) == []
