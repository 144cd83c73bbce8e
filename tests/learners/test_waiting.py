"""No step makes an accelerator wait: it is taken on a device whose values nobody can read, where any reading fails."""

from contextlib import nullcontext

import check_learner as check
import pytest

from everlearn.learners import METHODS, learner

SAMPLE_BY_SAMPLE = {"joint", "offline", "gdumb", "icarl"}  # train where a task ends, or fill memory one after the other


@pytest.fixture
def unreadable(monkeypatch):
    """PyTorch's device without values has neither autocast nor random draws; nothing else is put aside."""
    monkeypatch.setattr(learner, "drawing_from", lambda seed, device: nullcontext())
    monkeypatch.setattr(learner.Learner, "autocast", lambda self: nullcontext())
    return "meta"


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in sorted(METHODS.keys() - SAMPLE_BY_SAMPLE)]
    + [
        ("aser", {"scoring": "exact"}),
        ("aser", {"scoring": "free", "shapley_update": False}),
        ("er", {"loss": "labels_trick", "augment": "crop,flip,colour,grey", "views": 2, "average": 0.1}),
        ("er", {"loss": "separated", "classifier": "ncm", "mkd": 5.5, "iterations": 2}),
    ],
)
def test_no_step_reads_off_the_device(name, options, unreadable):
    one = METHODS[name](check.small_model(), device=unreadable, memory=20, **options)
    for batch in check.stream([10] * 8):
        one.observe(batch)
    assert one.memory.full and one.step == 8 and len(one.classes.codes) == 6


def test_the_device_tells_on_one_who_reads(unreadable):
    one = METHODS["gdumb"](check.small_model(), device=unreadable, memory=20)
    with pytest.raises(NotImplementedError, match="no data"):
        one.observe(check.stream()[1])
