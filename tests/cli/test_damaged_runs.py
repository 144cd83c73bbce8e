"""A run of which something is damaged or gone: one line says so; an older checkpoint is taken, or nothing is done."""

import shutil

import pytest

from everlearn.runs.checkpoints import steps

READERS = ("predict", "evaluate", "explain", "report", "export", "audit")


@pytest.fixture(scope="module")
def kept(everlearn, tmp_path_factory):
    """A finished run on some digits."""
    path = tmp_path_factory.mktemp("runs") / "r"
    words = ["--method", "er", "--memory", 30, "--batch", 50, "--set", "average=0"]
    everlearn.json("learn", "builtin:digits", "--run", path, *words)
    return path


@pytest.fixture
def run(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "r")


def words_of(verb, run, digit_files):
    more = {
        "evaluate": ["builtin:digits"],
        "report": [],
        "audit": [],
        "export": ["--out", run / "m", "--format", "torch"],
    }
    return [verb, run, *more.get(verb, digit_files[:1])]


def damage(run, which):
    for step in steps(run / "checkpoints")[which]:
        (run / "checkpoints" / f"{step:08d}" / "state.safetensors").write_bytes(b"x")


def test_readers_tell_of_an_older_checkpoint(everlearn, run, digit_files):
    damage(run, slice(-1, None))
    older = steps(run / "checkpoints")[0]
    for verb in READERS:
        code, _, err = everlearn(*words_of(verb, run, digit_files))
        assert code == 0, err
        assert f"do not match their hash; step {older} is taken instead" in err, verb
    code, _, err = everlearn("learn", "--resume", run)
    assert code == 0 and "is taken instead" in err
    assert "is taken instead" not in everlearn("evaluate", run, "builtin:digits")[2]  # resuming has written it anew


def test_nothing_usable_is_refused_and_nothing_changes(everlearn, run, digit_files):
    damage(run, slice(None))
    journal = (run / "journal.sqlite").read_bytes()
    for words in [*(words_of(verb, run, digit_files) for verb in READERS), ["learn", "--resume", run]]:
        line = everlearn.refused(*words)
        assert f"no checkpoint of {run} can be used" in line and "from a copy" in line
    assert (run / "journal.sqlite").read_bytes() == journal
    assert everlearn.json("audit-log", "verify", run)["fault"] is None  # needs no checkpoint
    shutil.rmtree(run / "checkpoints")  # as the line says
    assert everlearn.json("learn", "--resume", run)["samples_seen"] == 1438


def test_a_journal_that_is_gone_or_empty(everlearn, run, digit_files):
    (run / "journal.sqlite").unlink()
    for words in (words_of("predict", run, digit_files), ["learn", "--resume", run]):
        assert "has checkpoints but no journal.sqlite" in everlearn.refused(*words)
    assert not (run / "journal.sqlite").exists()
    (run / "journal.sqlite").touch()
    for words in (words_of("predict", run, digit_files), ["learn", "--resume", run]):
        assert "does not know 10 of the 10 classes" in everlearn.refused(*words)
    assert "knows no class, but the run has learned some" in everlearn.refused("audit-log", "verify", run)


def test_checkpoints_that_are_a_file(everlearn, run, digit_files):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").touch()
    for words in (words_of("evaluate", run, digit_files), ["learn", "--resume", run]):
        assert "checkpoints is a file; expected the directory" in everlearn.refused(*words)


@pytest.mark.parametrize(("was", "now"), [("slim_resnet18", "resnet18"), ("memory = 30", "memory = 31")])
def test_settings_that_the_state_does_not_fit(everlearn, run, digit_files, was, now):
    text = (run / "config.toml").read_text()
    assert was in text
    (run / "config.toml").write_text(text.replace(was, now))
    for words in (words_of("predict", run, digit_files), ["learn", "--resume", run]):
        assert "does not fit its config.toml" in everlearn.refused(*words)


def test_a_run_that_has_learned_nothing_yet(everlearn, run, digit_files):
    shutil.rmtree(run / "checkpoints")
    for verb in READERS:
        assert "has no checkpoint yet" in everlearn.refused(*words_of(verb, run, digit_files))
