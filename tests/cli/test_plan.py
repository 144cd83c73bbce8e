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
    ],
)
def test_bad_input_is_one_line(arguments, message):
    error = call(*arguments).exception
    assert isinstance(error, SettingError)
    assert message in str(error) and "\n" not in str(error)


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
