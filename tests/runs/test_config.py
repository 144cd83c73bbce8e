"""Settings: checked, written, read again."""

import pytest

from everlearn.errors import RunError, SettingError
from everlearn.runs import Config


def test_written_and_read_again(tmp_path):
    config = Config.of({"data": {"source": 'a "quoted" folder'}, "learner": {"options": {"k": 5}}, "seed": 3})
    (tmp_path / "config.toml").write_text(config.dump())
    assert Config.load(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"source": "x"}, "sede": 1}, "setting sede is 1"),
        ({"data": {"source": "x", "size": 4}}, "setting data.size is 4"),
        ({"data": {}}, "setting data.source is missing$"),
        ({"data": {"source": "x", "columns": {"foo": "bar"}}}, "setting data.columns.foo is 'foo': .* 'path', 'text'"),
        ({"data": {"source": "x", "holdout": float("nan")}}, "setting data.holdout is nan"),
        ({"data": {"source": "x"}, "learner": {"lr": 1e300}}, "setting learner.lr is 1e.300: .* 1000000000"),
        ({"data": {"source": "x"}, "learner": {"lr": float("inf")}}, "setting learner.lr is inf"),
        ({"data": {"source": "x"}, "workers": 100_000}, "setting workers is 100000: .* 64"),
        ({"data": {"source": "x"}, "seed": {"a": 1}}, "setting seed is a table"),
        ({"data": {"source": "x"}, "stream": {"order": "up"}}, "setting stream.order is 'up'"),
    ],
)
def test_the_first_bad_setting_is_named(settings, message):
    with pytest.raises(SettingError, match=message):
        Config.of(settings)


def test_a_damaged_file_is_one_line(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        Config.load(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text("seed = ")
    with pytest.raises(RunError, match="cannot read"):
        Config.load(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text("seed = -1\n[data]\nsource = 'x'\n")
    with pytest.raises(RunError, match="setting seed is -1"):
        Config.load(tmp_path / "config.toml")


def test_workers_are_bounded_in_a_file_as_well(tmp_path):
    (tmp_path / "config.toml").write_text("workers = 65\n[data]\nsource = 'x'\n")
    with pytest.raises(RunError, match="workers is 65"):
        Config.load(tmp_path / "config.toml")
