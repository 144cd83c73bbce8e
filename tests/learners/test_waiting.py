"""No step makes an accelerator wait: it is taken on a device whose values nobody can read, where any reading fails."""

from contextlib import nullcontext

import check_learner as check
import pytest

from everlearn.learners import METHODS, learner


@pytest.fixture
def unreadable(monkeypatch):
    """PyTorch's device without values has neither autocast nor random draws; nothing else is put aside."""
    monkeypatch.setattr(learner, "drawing_from", lambda seed, device: nullcontext())
    monkeypatch.setattr(learner.Learner, "autocast", lambda self: nullcontext())
    return "meta"


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in sorted(METHODS)]
    + [
        ("aser", {"scoring": "exact"}),
        ("aser", {"shapley_update": False}),
        ("er", {"loss": "labels_trick", "augment": "crop,flip,colour,grey", "views": 2, "average": 0.1}),
        ("er", {"loss": "separated", "classifier": "ncm", "mkd": 5.5, "iterations": 2}),
    ],
)
def test_no_step_reads_off_the_device(name, options, unreadable):
    whole = name in {"joint", "offline"}  # bounds: they keep all
    one = METHODS[name](check.small_model(), device=unreadable, memory=80 if whole else 20, **options)
    for batch in check.stream([10] * 8):
        one.observe(batch)
    assert one.memory.full and one.step == 8 and len(one.classes.codes) == 6


def test_the_device_tells_on_one_who_reads(unreadable):
    one = METHODS["er"](check.small_model(), device=unreadable, memory=20)
    report = one.observe(check.stream()[1])
    with pytest.raises(RuntimeError, match="meta"):
        float(report.loss)
    with pytest.raises(NotImplementedError, match="no data"):
        one.memory.counts.tolist()
