"""The table's runner: complete, resumable, and counting what it says it counts."""

import json

import pytest
import torch
from typer.testing import CliRunner

from everlearn.bench import continual as bench
from everlearn.bench.rows import append_rows, read_rows
from everlearn.bench.tables import as_markdown, dataset_of, machine, summary
from everlearn.cli.main import app
from everlearn.data import open_source
from everlearn.errors import DataError, RunError, SettingError
from everlearn.learners import ER, GSS, MIR, MKD, SLDA, LwF
from everlearn.learners.forwards import counting_forwards
from everlearn.models import build_model

SETTING = bench.Setting(tasks=2, quick=True)
LINES = [bench.Entry("ER", "er", ncm="ER + NCM"), bench.Entry("naive", "naive")]


@pytest.fixture(scope="module")
def few():
    return bench.into_memory(bench.thinned(open_source("builtin:digits"), train=6, test=3))


def test_thinned_and_held_sources_read_the_same(few):
    whole = open_source("builtin:digits")
    assert (~few.test).sum() == 60 and few.test.sum() == 30
    for i in (0, 7, 89):
        assert (few.read(i) == whole.read(whole.names.index(few.names[i]))).all()


def test_most_thins_every_table(tmp_path):
    digits = open_source("builtin:digits")
    assert bench.thinned_to(digits, None) is digits
    few = bench.thinned_to(digits, 10)
    assert (~few.test).sum() == 100 and few.test.sum() == 20 and few.name == f"{digits.name}, 10 of each class"
    command = ["bench", "continual", "--data", "builtin:digits", "--methods", "naive", "--memory", "20", "--json"]
    command += ["--results", str(tmp_path / "rows.jsonl"), "--most", "10"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0 and read_rows(tmp_path / "rows.jsonl")[0]["samples"] == 100
    both = CliRunner().invoke(app, [*command, "--quick"])
    assert "leave one out" in str(both.exception)


def test_a_table_goes_on_where_it_stopped(few, tmp_path):
    file, said = tmp_path / "results" / "rows.jsonl", []
    first = bench.run_table(few, SETTING, LINES[:1], [20], [0], file, said.append)
    assert [row["name"] for row in first] == ["ER", "ER + NCM"] and said
    with file.open("a") as out:
        out.write('{"name": "naive", "mem')  # killed while it wrote
    rows = bench.run_table(few, SETTING, LINES, [20], [0, 1], file)
    assert [(row["name"], row["seed"]) for row in rows] == [
        ("ER", 0), ("ER + NCM", 0), ("naive", 0), ("ER", 1), ("ER + NCM", 1), ("naive", 1),
    ]  # fmt: skip
    assert rows[:2] == first
    said.clear()
    assert bench.run_table(few, SETTING, LINES, [20], [0, 1], file, said.append) == rows and not said
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 6
    again = bench.run_one(few, SETTING, LINES[0], 20, 0)[0]
    assert again["accuracy_matrix"] == rows[0]["accuracy_matrix"]  # the same seed gives the same result
    other = bench.Setting(tasks=2, lr=0.05, quick=True)
    assert len(bench.run_table(few, other, LINES[1:], [20], [0], file, said.append)) == 1 and said  # another setting


def test_a_seeded_order_of_classes_is_another_setting(few, tmp_path, monkeypatch):
    seen, file = [], tmp_path / "rows.jsonl"
    spied = bench.class_incremental
    monkeypatch.setattr(bench, "class_incremental", lambda *words: seen.append(spied(*words)) or seen[-1])
    for order in ("natural", "seeded"):
        setting = bench.Setting(tasks=2, quick=True, order=order)
        assert len(bench.run_table(few, setting, LINES[1:], [20], [0, 1], file)) == 2
    groups = [frozenset(stream.labels(stream.tasks[0]).tolist()) for stream in seen]
    assert groups[:2] == [frozenset(range(5))] * 2 and len({*groups}) == 3  # natural, seed 0, seed 1
    assert [row["order"] for row in read_rows(file)] == ["natural"] * 2 + ["seeded"] * 2
    known = {name: value for name, value in read_rows(file)[0].items() if name != "order"}
    assert bench.key(known) == bench.key(read_rows(file)[0])  # rows of before there was a choice


def test_one_run_is_read_off_with_averaged_weights_too(few):
    averaging = bench.Setting(tasks=2, quick=True, average=0.1)
    plain = {row["name"]: row for row in bench.run_one(few, SETTING, LINES[0], 20, 0)}
    rows = {row["name"]: row for row in bench.run_one(few, averaging, LINES[0], 20, 0)}
    assert list(rows) == ["ER", "ER + NCM", "ER, averaged", "ER + NCM, averaged"]
    for name, row in plain.items():
        assert row["accuracy_matrix"] == rows[name]["accuracy_matrix"]  # what is learned is the same
    assert len({json.dumps(row["accuracy_matrix"]) for row in rows.values()}) > 2
    assert list(bench.Entry("iCaRL", "icarl").readings(averaging)) == ["iCaRL"]  # which allows no average


def test_a_row_has_what_the_table_needs(few):
    row = bench.run_one(few, SETTING, LINES[1], 20, 0)[0]
    matrix = row["accuracy_matrix"]
    assert len(matrix) == 2 and matrix[0][1] is None and matrix[1][1] is not None
    assert row["samples"] == 60 and row["memory_bytes"] > 20 * 64 and row["seconds"] > 0
    assert row["forwards_per_sample"] == 3.0  # each sample once, forward and backward


def counted(method, batches=4, **settings):
    model = build_model("slim_resnet18", channels=1, size=8)
    learner = method(model, memory=50, precision="float32", **settings)
    with counting_forwards(learner) as count:
        for i in range(batches):
            rng = torch.Generator().manual_seed(i)
            inputs = torch.randint(256, (10, 1, 8, 8), generator=rng, dtype=torch.uint8)
            batch = bench_batch(inputs, i)
            count.on = i == batches - 1
            learner.observe(batch)
            count.on = False
            learner.predict(inputs)  # evaluation does not count
    return count.forwards


def bench_batch(inputs, i):
    from everlearn.data import Batch

    return Batch(inputs, torch.arange(10) % 2 + 2 * (i // 2), torch.arange(10) + 10 * i, task=i // 2)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        (ER, {}, 3 * 20),
        (MIR, {"candidates": 25}, 3 * 10 + 2 * 25 + 3 * 20),  # the virtual step, both losses, the step
        (GSS, {"strength": 7}, 3 * 20 + 3 * 17),  # the step, and a gradient for each sample
        (MKD, {}, 3 * 20 + 40),  # the teacher sees two views
        (LwF, {}, 3 * 10 + 10),  # the past model
        (SLDA, {}, 10),
    ],
)
def test_forwards_are_counted_as_the_method_makes_them(method, settings, expected):
    assert counted(method, **settings) == expected


def test_summary_of_known_figures():
    base = {"name": "ER", "memory": 500, "forgetting": 0.4, "seconds": 10.0, "forwards_per_sample": 6.0}
    rows = [base | {"average_accuracy": a} for a in (0.28, 0.30, 0.32)]
    found = summary([*rows, base | {"name": "X", "average_accuracy": 0.5}], "CIFAR-10")
    assert found[0]["accuracy"] == 30.0 and found[0]["published"] == 29.0 and found[0]["seeds"] == 3
    assert found[0]["interval"] == pytest.approx(4.303 * 2 / 3**0.5, abs=0.01)  # t(0.975, 2) · sd / √n
    assert found[1]["interval"] is None and found[1]["published"] is None
    lines = as_markdown(found).splitlines()
    assert lines[2].startswith("| ER | 500 | 30.0 ± 5.0 | 29.0 | 40.0 | – | – | 3 |") and "| – |" in lines[3]
    assert machine()["threads"] == torch.get_num_threads()
    assert dataset_of(["cat", "dog"]) is None


def test_errors_are_one_line(few, tmp_path):
    with pytest.raises(SettingError, match="no method is called 'erm'; there are naive, joint"):
        bench.run_one(few, SETTING, bench.Entry("ERM", "erm"), 20, 0)
    broken = tmp_path / "rows.jsonl"
    broken.write_text("no json\n{}\n")
    with pytest.raises(RunError, match="line 1: no result in JSON; repair it, or give --results"):
        read_rows(broken)
    with pytest.raises(RunError, match="cannot write results to"):
        append_rows(tmp_path, [{}])

    def unreadable(i):
        raise DataError("3.png is no picture")

    from dataclasses import replace

    with pytest.raises(DataError, match=r"a benchmark needs every sample: 3\.png is no picture"):
        bench.into_memory(replace(few, read=unreadable))
