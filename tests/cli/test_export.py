"""``everlearn export``: the file alone says what predict says."""

import io
import json
import warnings

import numpy as np
import pytest
import torch

from everlearn.data import load, open_source
from everlearn.runs import Config, Run, learn


@pytest.fixture(scope="module", params=["er", "er averaged", "ncm of memory", "slda"])
def run_path(request, tmp_path_factory):
    """A finished run in float32, of four classes of digits."""
    learner = {"method": request.param.split(" ")[0], "memory": 20, "precision": "float32"}
    if request.param == "ncm of memory":
        learner |= {"method": "er", "classifier": "ncm"}
    if request.param == "er averaged":
        learner |= {"options": {"average": 0.2}}
    path = tmp_path_factory.mktemp("export") / "r"
    config = Config.of({
        "data": {"source": "builtin:digits", "holdout": 0.9}, "learner": learner, "stream": {"tasks": 2},
        "alarms": False,
    })  # fmt: skip
    with Run.create(path, config) as run:
        learn(run)
    return path


@pytest.fixture
def pictures():
    source = open_source("builtin:digits")
    return load(source, np.arange(7))[0]


def expected(path, pictures):
    with Run.open(path) as run:
        prediction = run.learner().predict(pictures)
        return prediction.probabilities.numpy(), [run.journal.class_names()[code] for code in prediction.codes]


def test_torch(everlearn, run_path, pictures, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = everlearn.json("export", run_path, "--format", "torch", "--out", tmp_path / "m.pt2")
    extra = {"classes.json": "", "preprocessing.json": ""}
    program = torch.export.load(io.BytesIO((tmp_path / "m.pt2").read_bytes()), extra_files=extra)
    probabilities, classes = expected(run_path, pictures)
    assert json.loads(extra["classes.json"]) == result["classes"] == classes
    assert json.loads(extra["preprocessing.json"])["shape"] == [1, 8, 8]
    for n in (1, 7):
        found = program.module()(pictures[:n]).detach().numpy()
        assert np.abs(found - probabilities[:n]).max() < 1e-4


def test_onnx(everlearn, run_path, pictures, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = everlearn.json("export", run_path, "--out", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes())
    known = session.get_modelmeta().custom_metadata_map
    probabilities, classes = expected(run_path, pictures)
    assert json.loads(known["classes"]) == result["classes"] == classes
    assert json.loads(known["preprocessing"]) == result["preprocessing"]
    for n in (1, 7):
        (found,) = session.run(None, {"pictures": pictures[:n].numpy()})
        assert np.abs(found - probabilities[:n]).max() < 1e-4
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_what_is_refused(everlearn, digits_run, tmp_path):
    assert "no format 'tflite'" in everlearn.refused(
        "export", digits_run, "--format", "tflite", "--out", tmp_path / "m"
    )
    assert "cannot write" in everlearn.refused("export", digits_run, "--format", "torch", "--out", "/proc/none/m")
    file, config = tmp_path / "file", digits_run / "config.toml"
    file.write_text("x")
    for out, message in ((file / "m", "cannot write"), (config, "config.toml is one of the run's own files")):
        before = config.read_bytes()
        assert message in everlearn.refused("export", digits_run, "--format", "torch", "--out", out)
        assert config.read_bytes() == before
    raw = ["--method", "slda", "--set", "inputs=raw", "--memory", 10, "--no-alarms"]
    everlearn.json("learn", "builtin:digits", "--run", tmp_path / "r", *raw)
    line = everlearn.refused("export", tmp_path / "r", "--format", "torch", "--out", tmp_path / "m")
    assert "has no classifier that can be exported" in line
