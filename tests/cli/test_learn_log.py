"""``everlearn learn --log tensorboard:DIR``: TensorBoard's own reader finds every step."""

import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = ["--method", "slda", "--set", "inputs=raw", "--memory", 20, "--tasks", 5, "--batch", 20]


def test_tensorboard(everlearn, tmp_path):
    result = everlearn.json(
        "learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log", f"tensorboard:{tmp_path}/tb"
    )
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    losses, means = found.Scalars("loss"), found.Scalars("average accuracy")
    assert [event.step for event in losses] == list(range(1, result["steps"] + 1))
    assert len(means) == 5
    assert means[-1].value == pytest.approx(result["average_accuracy"])
    assert len(found.Tensors("alarms/text_summary")) == 10  # ten new classes


def test_what_is_refused(everlearn, tmp_path):
    words = ["learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log"]
    assert "expected tensorboard:DIR" in everlearn.refused(*words, "wandb:x")
    assert "expected tensorboard:DIR" in everlearn.refused(*words, "tensorboard:")
    (tmp_path / "file").write_text("")
    assert "cannot write there" in everlearn.refused(*words, f"tensorboard:{tmp_path}/file")
    assert not (tmp_path / "r").exists()
