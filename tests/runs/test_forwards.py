"""What learning computed is counted, and counted alike by a run that was interrupted."""

import pytest

from everlearn.runs import Config, Run, learn

from .test_contents import stop
from .test_kill import last


@pytest.mark.parametrize(
    ("method", "options"),
    [("lwf", {}), ("icarl", {}), ("aser", {"candidates": 20}), ("random_features", {"width": 100})],
)
def test_resumed_runs_count_the_same(tmp_path, method, options):
    config = Config.of({
        "data": {"source": "builtin:digits"}, "stream": {"tasks": 5, "batch": 60}, "checkpoint_every": 3,
        "learner": {"method": method, "memory": 60, "options": options},
    })  # fmt: skip
    with Run.create(tmp_path / "whole", config) as run:
        learn(run)
        looks = [tuple(row) for row in run.journal.looks()]
        assert run.progress.forwards >= run.progress.samples_seen
    with Run.create(tmp_path / "r", config) as run, pytest.raises(KeyboardInterrupt):
        learn(run, stop(14))
    with Run.open(tmp_path / "r", write=True) as run:
        learn(run)
        assert [tuple(row) for row in run.journal.looks()] == looks
    assert last(tmp_path / "r") == last(tmp_path / "whole")
