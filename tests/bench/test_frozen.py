"""The table on a frozen backbone: features once, any learner on them, taken up where it stopped."""

import numpy as np
import pytest
import torch

from everlearn.bench.continual import Setting, thinned
from everlearn.bench.frozen import LINES, encode, run_frozen
from everlearn.data import load, open_source
from everlearn.errors import SettingError
from everlearn.models import build_model
from everlearn.models.packed import PackedModel, unpack


@pytest.fixture(scope="module")
def digits():
    return thinned(open_source("builtin:digits", size=16), train=20, test=10)


def test_encoded_samples_are_the_backbones_features(digits):
    model = build_model("slim_resnet18", channels=1, size=16)
    encoded, seconds = encode(digits, model)
    packed, labels, _ = load(encoded, np.arange(5))
    pictures, same, _ = load(digits, np.arange(5))
    with torch.no_grad():
        wanted = model.eval().features(pictures)
    assert torch.equal(labels, same)
    assert torch.allclose(unpack(packed), wanted, rtol=0.05, atol=0.05)  # bfloat16 where the processor has it
    assert torch.equal(PackedModel(model.feature_dim).features(packed), unpack(packed))
    assert seconds > 0


def test_the_table_goes_on_where_it_stopped(digits, tmp_path):
    file, said, setting = tmp_path / "r.jsonl", [], Setting(tasks=2, lr=0.01)
    words = (digits, "slim_resnet18", None, setting)
    first = run_frozen(*words, [LINES["slda"]], 50, range(1), file, said.append)
    both = run_frozen(*words, [LINES["slda"], LINES["er"]], 50, range(1), file, said.append)
    assert both[0] == first[0]
    assert [row["name"] for row in both] == ["streaming LDA", "ER", "ER + NCM of memory"]
    assert len(file.read_text().splitlines()) == 3
    for row in both:
        assert row["samples"] == 200
        assert 0 < row["encode_seconds"] <= row["seconds"]
    assert both[0]["average_accuracy"] > 0.4  # a closed form on random features; guessing gives 0.1
    before = len(said)
    assert run_frozen(*words, [LINES["er"]], 50, range(1), file, said.append) == both[1:]
    assert len(said) == before  # nothing was computed


def test_a_line_that_is_not_there(tmp_path):
    from everlearn.bench.frozen import table

    with pytest.raises(SettingError, match="no line 'gss' in table 2"):
        table("builtin:digits", "slim_resnet18", None, 16, "gss", None, 1, None, None, tmp_path / "r", print)
