"""``everlearn bench`` with words that make no sense."""

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["continual", "--data", "builtin:digits", "--seeds", 0], "'--seeds'"),
        (["continual", "--data", "builtin:digits", "--tasks", 0], "'--tasks'"),
        (["continual", "--data", "builtin:digits", "--average", "nan"], "--average"),
        (["continual", "--data", "builtin:digits", "--memory", "0"], "--memory is '0'"),
        (["continual", "--data", "builtin:digits", "--memory", "many"], "--memory is 'many'"),
        (["explain", "--data", ".", "--table", 2], "table 2 needs --lungs FOLDER"),
        (["explain", "--data", "nowhere"], "nowhere is not a folder"),
        (["explain", "--data", "nowhere", "--table", 2], "nowhere is not a folder"),
    ],
)
def test_it_is_told_in_one_line(everlearn, tmp_path, words, said):
    assert said in everlearn.refused("bench", *words, "--results", tmp_path / "rows.jsonl")
