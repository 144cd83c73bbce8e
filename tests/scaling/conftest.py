"""A tiny run."""

import pytest

from everlearn.scaling.settings import Settings

TEXT = "the cell heats, the cell cools, and the cathode holds its charge.\n" * 60


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny(tmp_path):
    """Settings of a run of a few seconds, with changes by table."""
    (tmp_path / "text.txt").write_text(TEXT)
    known = {
        "model": {"preset": "tiny"},
        "data": {"train": [str(tmp_path / "text.txt")], "valid": [str(tmp_path / "text.txt")]},
        "train": {"steps": 12, "global_batch": 4, "checkpoint_every": 5, "valid_batches": 2, "timeout": 60.0},
        "optimiser": {"lr": 0.01},
        "schedule": {"warmup": 3, "decay": 4},
        "layout": {"micro_batch": 2},
        "seed": 1,
    }

    def settings(**changes):
        return Settings.of({name: value | changes.pop(name, {}) if isinstance(value, dict) else value
                            for name, value in known.items()} | changes)  # fmt: skip

    return settings
