"""A run on texts by the command: learn, go on, predict, explain, evaluate, report, audit; bits after SIGKILL."""

import hashlib
import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from everlearn.cli.main import run as main
from everlearn.runs import Run
from everlearn.runs.checkpoints import steps

from .conftest import picture_folder


@pytest.fixture(scope="module")
def texts(encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    encoders.write_table(folder / "texts.csv")
    encoders.write_table(folder / "content.csv", text="content")
    encoders.write_table(folder / "tasks.csv", task=True)
    return folder


@pytest.fixture(scope="module")
def text_run(everlearn, texts, encoder_folder):
    run = texts / "run"
    found = everlearn.json("learn", texts / "texts.csv", "--run", run, "--backbone", encoder_folder)
    assert found["method"] == "slda" and found["samples_seen"] == 48 and found["average_accuracy"] > 0.8
    return run


def test_settings_are_chosen_and_kept(text_run):
    with Run.open(text_run) as opened:
        config = opened.config
        assert config.data.columns == {"text": "text"} and config.data.of_texts
        assert config.stream.tasks == 3 and config.learner.options["shrinkage"] == 0.1
        assert opened.shape == (1, 1, config.data.size)


def test_predict_texts_files_and_tables(everlearn, text_run, texts, tmp_path):
    (tmp_path / "one.txt").write_text("the oil price of the market")
    (tmp_path / "two.csv").write_text("text\nthe planet and the orbit\na striker of the match\n")
    found = everlearn.json(
        "predict", text_run, tmp_path / "one.txt", tmp_path / "two.csv", "--text", "the goal of a referee"
    )
    said = {row["file"].rsplit("/")[-1]: row["class"] for row in found["predictions"]}
    assert said == {
        "text 1": "sport", "one.txt": "business", "two.csv, row 1": "space", "two.csv, row 2": "sport"
    }  # fmt: skip


def test_explain_writes_a_page_with_coloured_words_and_remembered_texts(everlearn, text_run):
    found = everlearn.json("explain", text_run, "--text", "<b>the</b> goal of the match & the striker")
    row = found["explanations"][0]
    assert [word for word, _ in row["map"]][:3] == ["<", "b", ">"]
    assert all(isinstance(x["text"], str) and x["text"] for x in row["evidence"])
    page = Path(found["page"]).read_text()
    assert "&lt;" in page and "<b>the" not in page and "Remembered texts that speak for it" in page


def test_evaluate_report_and_audit(everlearn, text_run, texts):
    held_out = everlearn.json("evaluate", text_run, texts / "texts.csv")
    assert held_out["samples"] == 12 and held_out["accuracy"] > 0.8
    page = Path(everlearn.json("report", text_run)["report"]).read_text()
    assert "Predictions, and why" in page and "<mark" in page and "data:image" not in page.split("Memory")[0]
    audit = everlearn.json("audit", text_run, "--k", 3)
    assert audit["samples"] == 48 and "<blockquote>" in Path(audit["page"]).read_text()


def test_it_goes_on_with_new_texts_and_new_classes(everlearn, texts, encoder_folder, tmp_path):
    first, more = tmp_path / "first.csv", tmp_path / "more.csv"
    lines = (texts / "texts.csv").read_text().splitlines()
    first.write_text("\n".join([lines[0], *(row for row in lines[1:] if not row.startswith("space"))]))
    more.write_text("\n".join([lines[0], *(row for row in lines[1:] if row.startswith("space"))]) + "\nspace,\n")
    run = tmp_path / "run"
    everlearn.json("learn", first, "--run", run, "--backbone", encoder_folder)
    found = everlearn.json("learn", more, "--run", run)
    assert found["quarantined"] + found["samples_seen"] >= 48
    assert everlearn.json("predict", run, "--text", "a comet and the orbit")["predictions"][0]["class"] == "space"


@pytest.mark.parametrize("method", ["er", "aser", "ncm", "scr", "icarl", "gss", "mir", "der"])
def test_methods_learn_texts_by_task(everlearn, texts, encoder_folder, tmp_path, method):
    words = ["--scenario", "task", "--method", method, "--memory", 20, "--batch", 6]
    found = everlearn.json("learn", texts / "tasks.csv", "--run", tmp_path / "r", "--backbone", encoder_folder, *words)
    assert found["samples_seen"] == 48 and len(found["accuracy_matrix"]) == 2


def test_bad_input_gets_one_line(everlearn, texts, encoder_folder, text_run, tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"text,label\none,a\ncaf\xe9,b\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_text(" \n")
    pictures = picture_folder(tmp_path / "pictures", n=2)
    with_encoder, run = ["--backbone", encoder_folder], ["--run", tmp_path / "r"]
    for words, line in [
        (["learn", tmp_path / "latin.csv", *run, *with_encoder], "line 3 is not UTF-8"),
        (["learn", texts / "content.csv", *run, *with_encoder], "name their column: text=NAME"),
        (["learn", texts / "content.csv", *run, *with_encoder, "--column", "text=body"], "has no column 'body'"),
        (["learn", texts / "texts.csv", *run, "--backbone", "resnet18"], "there is no sentence encoder 'resnet18'"),
        (["learn", texts / "texts.csv", *run, *with_encoder, "--method", "er", "--set", "augment=crop"],
         "augment is for pictures"),
        (["learn", texts / "texts.csv", *run, *with_encoder, "--channels", 3], "holds texts"),
        (["learn", texts / "texts.csv", *run, *with_encoder, "--watch", tmp_path], "texts cannot"),
        (["learn", "builtin:digits", "--run", text_run], "holds pictures; expected texts"),
        (["evaluate", text_run, pictures], "holds pictures; expected texts (a table: CSV, TSV or Parquet)"),
        (["evaluate", text_run, "builtin:digits"], "holds pictures; expected texts"),
        (["predict", text_run], "expected FILES or --text TEXT"),
        (["predict", text_run, tmp_path / "latin.txt"], "is not UTF-8 text (byte 3)"),
        (["predict", text_run, tmp_path / "empty.txt"], "holds no text"),
        (["predict", text_run, "--text", " "], "text 1 is empty"),
        (["predict", text_run, tmp_path / "none.txt"], "cannot be read"),
        (["explain", text_run, "--text", "a", "--method", "sise"], "expected one of token_masking"),
        (["export", text_run, "--out", tmp_path / "m.onnx"], "is of texts"),
        (["serve", text_run], "is of texts"),
    ]:  # fmt: skip
        assert line in everlearn.refused(*words), words
    assert not (tmp_path / "r").exists()


def start(*words):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["everlearn.cli.main"])
    process, argv = context.Process(target=main), sys.argv
    try:
        sys.argv = ["everlearn", *map(str, words)]
        process.start()
    finally:
        sys.argv = argv
    return process


def test_killed_and_resumed_to_the_same_bits(everlearn, texts, encoder_folder, tmp_path):
    settings = ["--backbone", encoder_folder, "--method", "aser", "--memory", 12, "--batch", 4, "--checkpoint-every", 3,
                "--set", "candidates=6"]  # fmt: skip
    hashes = []
    for name in ("whole", "killed"):
        run = tmp_path / name
        words = ["learn", texts / "texts.csv", "--run", run, *settings, "--json"]
        if name == "killed":
            process = start(*words)
            while not (run / "checkpoints").exists() or len(steps(run / "checkpoints")) < 2:
                time.sleep(0.02)
                assert process.exitcode is None or steps(run / "checkpoints")
            process.kill()
            process.join()
            words = ["learn", "--resume", run, "--json"]
        code, _, err = everlearn(*words)
        assert code == 0, err
        last = run / "checkpoints" / f"{steps(run / 'checkpoints')[-1]:08d}"
        hashes.append(hashlib.sha256(b"".join(f.read_bytes() for f in sorted(last.iterdir()))).hexdigest())
    assert hashes[0] == hashes[1]
