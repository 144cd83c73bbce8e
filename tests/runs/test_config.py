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
        ({"data": {}}, "setting data.source"),
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
