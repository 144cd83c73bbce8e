"""The verb ``everlearn pretrain``: what it cannot do is said in one line, before anything is trained or written."""

import pytest

CONFIG = """
[model]
layers = 1
hidden = 16
heads = 2
ffn = 16
vocab = 300
seq_len = 8
[data]
train = ["{folder}/text.txt"]
[train]
steps = 2
global_batch = 2
"""


@pytest.fixture
def config(tmp_path):
    """A configuration of a run of a moment, beside its text."""
    (tmp_path / "text.txt").write_text("the cell heats, the cell cools. " * 40)
    file = tmp_path / "config.toml"
    file.write_text(CONFIG.format(folder=tmp_path))
    return file


@pytest.fixture
def others(tmp_path):
    """A file, a run of a learner, a campaign and an empty directory."""
    (tmp_path / "file").write_text("x")
    for name, file, text in (
        ("learner", "config.toml", "[data]\nsource = 'builtin:digits'\n[learner]\nmethod = 'er'\n"),
        ("campaign", "campaign.toml", "[[targets]]\nname = 'y'\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "file is a file; expected the directory of a pretraining run"),
        ("learner", "is a run of a learner, not a pretraining run; expected everlearn learn --resume"),
        ("campaign", "is a campaign of discovery, not a pretraining run; expected everlearn discover"),
    ],
)
def test_a_place_of_another_kind_is_refused_and_left_as_it_is(everlearn, config, others, place, message):
    before = sorted(others.rglob("*"))
    assert message in everlearn.refused("pretrain", config, "--run", others / place)
    assert message in everlearn.refused("pretrain", "--resume", others / place)
    assert sorted(others.rglob("*")) == before


def test_a_run_to_go_on_with_must_be_there(everlearn, others):
    assert "empty is not a run: it has no config.toml" in everlearn.refused("pretrain", "--resume", others / "empty")
    assert "none is not a run: there is no such directory" in everlearn.refused("pretrain", "--resume", others / "none")
    assert "is a directory; expected a TOML file, or --resume" in everlearn.refused("pretrain", others)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--export", "FILE"], "file is not a directory; choose another place"),
        (["--export", "FILE/in/it"], "file is not a directory; choose another place"),
        (["--export", "RUN"], "is the run's own directory"),
        (["--prompt", ""], "--prompt is empty"),
        (["--processes", 65], "less than or equal to 64"),
        (["--processes", 10**12], "less than or equal to 64"),
        (["--groups", 9, "--processes", 9], "81 processes; expected 1 to 64 on one machine"),
        (["--length", 10**9], "less than or equal to 1000000"),
        (["--set", "optimiser.lr=inf"], "setting optimiser.lr is inf: input should be a finite number"),
        (["--set", "optimiser.betas=[0.9, 1.0]"], "setting optimiser.betas.1 is 1.0: input should be less than 1"),
        (["--set", "optimiser.weight_decay=inf"], "setting optimiser.weight_decay is inf"),
        (["--set", "train.timeout=inf"], "setting train.timeout is inf"),
        (["--set", "data.weights=[nan]"], "setting data.weights.0 is nan"),
        (["--set", "model.preset=3"], "preset is 3; expected a preset's name"),
        (["--set", "model.kv_heads=-1"], "kv_heads is -1; expected 0 to"),
        (["--set", "model.head_dim=-2"], "head_dim is -2; expected 0 to"),
        (["--set", "model.rope_theta=nan"], "rope_theta is nan; expected 0 to"),
        (["--set", "model.hidden=1000000000000"], "hidden is 1000000000000; expected 0 to"),
        (["--set", "model.hidden=100000000"], "do not fit in this machine's memory"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_anything_is_trained(everlearn, config, others, words, message):
    places = {"FILE": others / "file", "FILE/in/it": others / "file" / "in" / "it", "RUN": others / "run"}
    words = [places.get(word, word) for word in words]
    assert message in everlearn.refused("pretrain", config, "--run", others / "run", *words)
    assert not (others / "run" / "checkpoints").exists()


def test_a_begun_run_keeps_its_texts_and_its_steps(everlearn, config, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.txt"
    everlearn.json("pretrain", config, "--run", run)
    other.write_text("something else entirely. " * 40)
    for change, message in (
        (f"data.train=['{other}']", "was begun with data.train text.txt, and is asked to go on with other.txt"),
        ("data.tokenizer='bpe:280'", "has learned by tokenizer bytes, not bpe:280"),
        ("seed=5", "was begun with seed 0, not 5"),
        ("train.steps=1", "has taken 2 steps already; train.steps is 1, expected more"),
    ):
        assert message in everlearn.refused("pretrain", config, "--run", run, "--set", change)
        assert message in everlearn.refused("pretrain", "--resume", run, "--set", change)
    assert everlearn.json("pretrain", "--resume", run, "--set", "train.steps=3")["steps"] == 3


def test_a_run_that_cannot_be_written_is_one_line(everlearn, config, others):
    assert "cannot write to" in everlearn.refused("pretrain", config, "--run", others / "file" / "run")
