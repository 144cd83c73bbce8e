"""Tokens follow their texts: made anew before a run has a checkpoint, refused after."""

import json
import os
import shutil
from pathlib import Path

import pytest

from everlearn.errors import RunError
from everlearn.scaling import texts
from everlearn.scaling.data import Tokens, token_file
from everlearn.scaling.pretrain import prepare, pretrain
from everlearn.scaling.settings import Settings

OLD, NEW = "hello world " * 400, "zzzzz qqqqq " * 400


@pytest.fixture
def of(tiny, tmp_path):
    """Settings of a run that learns x/a.txt or y/a.txt: texts of one name and one size."""
    for name, text in (("x", OLD), ("y", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)

    def make(name, **changes):
        files = {"train": [str(tmp_path / name / "a.txt")], "valid": []}
        return tiny(data=files | changes.pop("data", {}), train={"steps": 5} | changes.pop("train", {}), **changes)

    return make


def tokens_of(settings, folder):
    return Tokens(token_file(Path(settings.data.train[0]), folder))


def spelled(settings, folder):
    """The text of a training file's tokens, of bytes."""
    return bytes(tokens_of(settings, folder).array[:-1].astype("uint8")).decode()


def inode(settings, folder):
    """Tells whether the tokens were written again."""
    return token_file(Path(settings.data.train[0]), folder).stat().st_ino


def edit(file, text):
    """Change a text, its size and time of change as they were."""
    told = file.stat()
    file.write_text(text)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))


def test_a_run_without_checkpoint_takes_another_text_of_the_same_name(of, tmp_path):
    run = tmp_path / "run"
    prepare(of("x"), run)
    before = inode(of("x"), run)
    prepare(of("x"), run)
    assert spelled(of("x"), run) == OLD and inode(of("x"), run) == before  # nothing changed, nothing made
    prepare(of("y", optimiser={"lr": 0.5}), run)
    assert spelled(of("y"), run) == NEW
    assert Settings.load(run / "config.toml") == of("y", optimiser={"lr": 0.5})  # what --resume goes on with
    edit(tmp_path / "y" / "a.txt", OLD)
    prepare(of("y"), run)
    assert spelled(of("y"), run) == OLD


def test_a_run_with_a_checkpoint_refuses_a_text_that_has_changed(of, tmp_path):
    run, text = tmp_path / "run", tmp_path / "x" / "a.txt"
    pretrain(of("x"), run)
    more = {"train": {"steps": 7}}
    for change in (lambda: of("y", **more), lambda: text.write_text(NEW) and of("x", **more)):
        settings = change()
        with pytest.raises(RunError, match=r"a.txt is not the text that .*run has learned; put it back, or begin an"):
            pretrain(settings, run)
    assert spelled(of("x"), run) == OLD
    text.write_text(OLD)  # put back, at another time
    pretrain(of("x", **more), run)
    with pytest.raises(RunError, match=r"has learned by tokenizer bytes, not bpe:300; set data.tokenizer back"):
        pretrain(of("x", data={"tokenizer": "bpe:300"}, **more), run)


def test_a_run_that_is_moved_goes_on_and_reads_a_long_text_whole_only_once(of, tmp_path, monkeypatch):
    pretrain(of("x"), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    os.utime(shutil.copyfile(tmp_path / "x" / "a.txt", tmp_path / "y" / "a.txt"), (1, 1))
    read, digest = [], texts.hashlib.file_digest
    monkeypatch.setattr(texts.hashlib, "file_digest", lambda *args: read.append(args) or digest(*args))
    for steps in (7, 9):
        pretrain(of("y", train={"steps": steps}), tmp_path / "moved")
    assert len(read) == 1


def test_a_run_of_before_texts_were_recorded_goes_on_and_begins_anew(of, tmp_path):
    pretrain(of("x"), tmp_path / "begun")
    prepare(of("x"), tmp_path / "fresh")
    for run in ("begun", "fresh"):
        (tmp_path / run / "data" / "texts.json").unlink()
    before = inode(of("x"), tmp_path / "begun")
    pretrain(of("x", train={"steps": 7}), tmp_path / "begun")
    assert inode(of("x"), tmp_path / "begun") == before
    prepare(of("y"), tmp_path / "fresh")
    assert spelled(of("y"), tmp_path / "fresh") == NEW
    (tmp_path / "fresh" / "data" / "texts.json").write_text("[1]")
    with pytest.raises(RunError, match=r"texts.json cannot be read \(.+\); delete it if"):
        prepare(of("y"), tmp_path / "fresh")


def test_a_run_killed_among_its_texts_makes_those_that_are_missing(of, tmp_path, monkeypatch):
    (tmp_path / "b.txt").write_text(NEW)
    settings = of("x", data={"valid": [str(tmp_path / "b.txt")]})
    write = texts.write_tokens

    def die(file, *rest):
        if file.name.startswith("b"):
            raise KeyboardInterrupt
        return write(file, *rest)

    monkeypatch.setattr(texts, "write_tokens", die)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "run")
    monkeypatch.undo()
    before = inode(settings, tmp_path / "run")
    prepare(settings, tmp_path / "run")
    assert inode(settings, tmp_path / "run") == before
    assert len(Tokens(tmp_path / "run" / "data" / "b.txt.tokens")) == len(NEW) + 1


def test_the_tokenizer_is_learned_anew_with_the_text_and_replayed_windows_are_valued_anew(of, tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    run, pairs = tmp_path / "run", {"data": {"tokenizer": "bpe:270"}}
    prepare(of("x", **pairs), run)
    first = (run / "tokenizer.json").read_text()
    (run / "replay.json").write_text(json.dumps({"best": [1]}))
    prepare(of("x", **pairs), run)
    assert (run / "tokenizer.json").read_text() == first and (run / "replay.json").exists()
    prepare(of("y", **pairs), run)
    assert (run / "tokenizer.json").read_text() != first and not (run / "replay.json").exists()
    prepare(of("y"), run)
    assert not (run / "tokenizer.json").exists()
    assert spelled(of("y"), run) == NEW
