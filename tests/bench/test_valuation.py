"""The tables of valuation: figures that are right, peers that agree, an interrupted table that goes on."""

import importlib.metadata
import json

import numpy as np
import pytest
import torch

from everlearn.bench import mislabelled
from everlearn.bench import valuation as bench
from everlearn.errors import SettingError

SIZE = bench.Size(60, 8, 4)


def test_the_table_goes_on_where_it_stopped(tmp_path):
    file, said = tmp_path / "rows.jsonl", []
    rows = bench.run_speed(["mean", "each", "weighted"], SIZE, file, peer_points=2, show=said.append)
    assert len(said) == 3 and [r["scaled_from"] for r in rows] == [None, None, 2] and rows[0]["ratio"] == 1
    assert bench.run_speed(["mean", "each", "weighted"], SIZE, file, peer_points=2, show=said.append) == rows
    assert len(said) == 3 and len([json.loads(line) for line in file.read_text().splitlines()]) == 3
    bench.run_speed(["mean"], SIZE, file, seed=1, show=said.append)
    assert len(said) == 4


@pytest.mark.parametrize("name", ["dattri", "pydvl"])
def test_peers_give_the_same_values(name, tmp_path):
    if name not in bench.installed():
        pytest.skip("not installed")
    row = bench.run_speed([name], SIZE, tmp_path / "rows.jsonl")[0]
    assert row["error"] < 1e-6 and row["package"].split()[1] == importlib.metadata.version(row["package"].split()[0])


def test_what_the_large_run_says_is_checked_by_the_votes():
    row = bench._large(bench.Size(300, 120, 4), 2**20, 0)
    assert row["sum"] == pytest.approx(row["vote"], abs=1e-5) and 0 < row["vote"] < 1
    assert row["peak_bytes"] >= row["idle_bytes"] > 0 and "MiB" in bench.memory_line(row)


def test_flipped_labels_differ_and_repeat():
    labels = torch.arange(50) % 5
    wrong, where = mislabelled.flipped(labels, 5, 0.2)
    assert ((wrong != labels).numpy() == where).all() and where.sum() == 10 and wrong.max() < 5
    assert torch.equal(wrong, mislabelled.flipped(labels, 5, 0.2)[0])
    assert not torch.equal(wrong, mislabelled.flipped(labels, 5, 0.2, seed=1)[0])


def test_quality_of_scores_and_flags():
    where = np.array([True, True, False, False, False])
    found = mislabelled.quality(
        np.array([0.1, 0.9, 0.2, 0.8, 0.95]), np.array([True, False, True, False, False]), where
    )
    assert found == {"auroc": pytest.approx(4 / 6), "top": 0.5, "precision": 0.5, "recall": 0.5}
    none = mislabelled.quality(np.arange(5.0), np.zeros(5, bool), where)
    assert none["precision"] is None and none["recall"] == 0 and none["top"] == 1


def test_all_methods_on_clear_classes():
    y = torch.arange(200) % 4
    x = 4 * torch.eye(4)[y] + torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    rows = mislabelled.run_mislabelled(x, y, 4)
    assert rows[0]["package"] is None and rows[0]["top"] > 0.9 and rows[0]["recall"] > 0.6
    assert all(row["auroc"] > 0.8 for row in rows)
    assert mislabelled.as_markdown(rows).count("\n") == 1 + len(rows)


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(SettingError, match="there is no line 'magic'"):
        bench.run_speed(["magic"], SIZE, tmp_path / "rows.jsonl")
