"""A directory that is no run of a learner: what it is and which verb reads it, in one line; nothing in it changes."""

import pytest


def campaign(folder):
    folder.mkdir()
    (folder / "campaign.toml").write_text("[[targets]]\nname = 'x'\n")
    return folder, "is a campaign of discovery, not a run of a learner; expected everlearn discover"


def pretraining(folder):
    folder.mkdir()
    text = "[model]\npreset = 'tiny'\n[data]\ntrain = ['a.txt']\n[train]\nsteps = 9\n"
    (folder / "config.toml").write_text(text)
    return folder, "is a pretraining run, not one of a learner; expected everlearn pretrain --resume"


@pytest.mark.parametrize("make", [campaign, pretraining])
def test_a_directory_of_another_verb(everlearn, tmp_path, digit_files, make):
    folder, message = make(tmp_path / "other")
    before = sorted(path.name for path in folder.iterdir())
    for words in (
        ["learn", "builtin:digits", "--run", folder],
        ["learn", "--resume", folder],
        ["predict", folder, digit_files[0]],
        ["evaluate", folder, "builtin:digits"],
        ["report", folder],
    ):
        assert message in everlearn.refused(*words)
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == before


@pytest.mark.parametrize("name", ["journal.sqlite", "checkpoints"])
def test_what_is_left_of_a_run_is_not_taken_for_a_new_one(everlearn, tmp_path, name):
    (tmp_path / "r" / name).mkdir(parents=True)
    line = everlearn.refused("learn", "builtin:digits", "--run", tmp_path / "r")
    assert f"has {name} of a run, but no config.toml" in line
    assert not (tmp_path / "r" / "config.toml").exists()


def test_a_role_that_no_column_has(everlearn, tmp_path):
    line = everlearn.refused("learn", "builtin:digits", "--run", tmp_path / "r", "--column", "foo=bar")
    assert "data.columns.foo" in line and "'label'" in line
