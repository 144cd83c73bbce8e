"""``everlearn learn --log …``: each tool's own reader finds every step once, also after an interruption."""

import json
import struct
import sys

import pytest

from everlearn.runs import Run

SMALL = ["--method", "slda", "--set", "inputs=raw", "--memory", 20, "--tasks", 5, "--batch", 20]
WORDS = ["--checkpoint-every", 10]


def interrupted(everlearn, monkeypatch, words, after=25):
    """Learn until some step, as a process that is stopped there."""
    from everlearn.runs.session import Session

    step = Session.step

    def until(self, *args):
        if self.progress.step == after:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "step", until)
        assert everlearn(*words)[0] == 130


def wandb_records(content):
    """W&B's own file: LevelDB's log format behind seven bytes, in blocks of 32 KiB; a record may be in several."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_tensorboard(everlearn, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = everlearn.json(
        "learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log", f"tensorboard:{tmp_path}/tb"
    )
    found = accumulator.EventAccumulator(str(tmp_path / "tb")).Reload()
    losses, means = found.Scalars("loss"), found.Scalars("average accuracy")
    assert [event.step for event in losses] == list(range(1, result["steps"] + 1))
    assert len(means) == 5
    assert means[-1].value == pytest.approx(result["average_accuracy"])
    assert len(found.Tensors("alarms/text_summary")) == 10  # ten new classes


def test_mlflow(everlearn, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    log = ["--log", f"mlflow:{tmp_path}/mlflow"]
    interrupted(everlearn, monkeypatch, ["learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, *WORDS, *log])
    result = everlearn.json("learn", "--resume", tmp_path / "r", *log)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("everlearn").experiment_id])
    losses = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    assert [metric.step for metric in losses] == list(range(1, result["steps"] + 1))
    with Run.open(tmp_path / "r") as opened:
        assert [metric.value for metric in losses] == [row["loss"] for row in opened.journal.steps()]
    assert run.data.metrics["average accuracy"] == pytest.approx(result["average_accuracy"])
    assert run.data.params["learner.method"] == "slda" and run.data.params["stream.batch"] == "20"
    assert len([tag for tag in run.data.tags if tag.startswith("alarm ")]) == 10
    assert run.info.status == "FINISHED"


def test_wandb_offline(everlearn, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    result = everlearn.json("learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log", "wandb:trial")
    (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")
    rows, project = [], None
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            project = record.run.project
        if record.WhichOneof("record_type") == "history":
            rows.append({i.key or "".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    losses = {row["_step"]: row["loss"] for row in rows if "loss" in row}
    with Run.open(tmp_path / "r") as opened:
        assert losses == pytest.approx({row["step"]: row["loss"] for row in opened.journal.steps()})
    assert project == "trial" and len(losses) == result["steps"]
    assert [row for row in rows if "average accuracy" in row][-1]["average accuracy"] == pytest.approx(
        result["average_accuracy"]
    )
    assert sum(row.get("alarms", "").count("new class") for row in rows) == 10


def test_a_tool_that_fails_later_on_stops_nothing(everlearn, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from everlearn.runs import log

    monkeypatch.setattr(log, "_FLUSH_SECONDS", 0.0)
    (tmp_path / "mlflow").mkdir()
    begun = []

    def chosen(self, *args, original=log.Run.save):
        if not begun:
            begun.append((tmp_path / "mlflow" / "mlflow.db").write_bytes(b"no database"))
        return original(self, *args)

    monkeypatch.setattr(log.Run, "save", chosen)
    words = ["learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, *WORDS, "--log", f"mlflow:{tmp_path}/mlflow"]
    code, out, err = everlearn(*words, "--json")
    assert code == 0 and json.loads(out)["samples_seen"] == 1438
    told = " ".join(err.split())
    assert "failed at step" in told and "learning goes on without it" in told


def test_what_is_refused(everlearn, tmp_path, monkeypatch):
    words = ["learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log"]
    for spec in ("aim:x", "tensorboard:", "wandb"):
        assert "expected tensorboard:DIR, mlflow:DIR_OR_URI or wandb:PROJECT" in everlearn.refused(*words, spec)
    (tmp_path / "file").write_text("")
    for tool in ("tensorboard", "mlflow"):
        pytest.importorskip(tool)
        assert "cannot write there" in everlearn.refused(*words, f"{tool}:{tmp_path}/file")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "needs the package wandb: pip install everlearn[wandb]" in everlearn.refused(*words, "wandb:x")
    assert not (tmp_path / "r").exists()


def test_nobody_is_logged_in(everlearn, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    words = ["learn", "builtin:digits", "--run", tmp_path / "r", *SMALL, "--log", "wandb:x"]
    assert "nobody is logged in; run wandb login, or set WANDB_MODE=offline" in everlearn.refused(*words)
