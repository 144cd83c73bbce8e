"""A run's model for use elsewhere: uint8 pictures in, probabilities out, class names and preprocessing inside."""

from __future__ import annotations

import json
import warnings
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import RunError, SettingError
from everlearn.learners import Learner
from everlearn.models import Model, NearestClassMean
from everlearn.runs.run import Run

FORMATS = ("onnx", "torch")
OVERWRITTEN = (".onnx", ".pt2")  # within a run's directory


class Exported(nn.Module):
    """What is exported: (x/255 − mean)/std, backbone, classifier, softmax, all in float32.

    Parameters
    ----------
    model : Model
        Whose backbone and normalisation are used.
    classifier : nn.Module
        Features ``[n, d]`` to logits ``[n, classes]``.
    """

    def __init__(self, model: Model, classifier: nn.Module) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities ``[n, classes]`` of pictures ``[n, C, H, W]`` of uint8."""
        x = (pictures.to(self.model.mean.dtype) / 255 - self.model.mean) / self.model.std
        return self.classifier(self.model.backbone(x).flatten(1)).softmax(1)


def export(run: Run, format: str, file: Path) -> dict[str, Any]:
    """Write the model of a run's last checkpoint.

    Parameters
    ----------
    run : Run
        With a checkpoint.
    format : {"onnx", "torch"}
        ONNX for any number of pictures, with the metadata ``classes`` and ``preprocessing`` (JSON); or
        `torch.export`'s archive with these two as extra files ``classes.json`` and ``preprocessing.json``.
    file : Path
        Written beside and renamed, so that it is there whole or not at all.

    Returns
    -------
    dict
        file, format, classes (in the order of the probabilities), preprocessing.

    Raises
    ------
    SettingError
        If the format is unknown, its packages are missing, or the learner's classifier cannot be exported.
    """
    if format not in FORMATS:
        raise SettingError(f"there is no format {format!r}; expected {' or '.join(FORMATS)}")
    if file.exists() and file.suffix not in OVERWRITTEN and run.path.resolve() in file.resolve().parents:
        raise SettingError(f"{file} is one of the run's own files; give another, such as {run.path}/model.onnx")
    if run.config.data.of_texts:
        raise SettingError(f"{run.path} is of texts: its encoder is no part of it, so that there is nothing to export")
    learner, names, shape = run.learner(), run.journal.class_names(), run.shape
    network = network_of(learner)
    classes = [names[code] for code in learner.classes.codes]
    preprocessing = {
        "input": "uint8 [n, channels, height, width], colour as RGB",
        "shape": list(shape),
        "resize": "to height × width, whole picture",
        "normalisation": "inside the model",
        "mean": learner.model.mean.flatten().tolist(),
        "std": learner.model.std.flatten().tolist(),
        "everlearn": version("everlearn"),
        "step": learner.step,
    }
    beside = file.with_name(f".{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write = _write_onnx if format == "onnx" else _write_torch
        write(network, shape, {"classes": classes, "preprocessing": preprocessing}, beside)
        beside.replace(file)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return {"file": str(file), "format": format, "classes": classes, "preprocessing": preprocessing}


def network_of(learner: Learner) -> Exported:
    """The learner as one module, in evaluation mode on the CPU."""
    with learner.evaluating():
        classifier = learner.as_classifier()
    if classifier is None:
        raise SettingError(
            f"{type(learner).__name__} with these settings has no classifier that can be exported; a linear head, "
            "nearest class mean, ncm and slda have one"
        )
    if isinstance(classifier, NearestClassMean):
        classifier = _Nearest(classifier.means, classifier.seen)
    return Exported(learner.predicting_model(), classifier).cpu().float().eval()


class _Nearest(nn.Module):
    """`NearestClassMean` by a matrix product: −‖f/‖f‖ − μ‖² = 2 f·μ/‖f‖ − 1 − ‖μ‖², for any number of pictures."""

    weight: Tensor
    bias: Tensor

    def __init__(self, means: Tensor, seen: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", 2 * means.T)
        self.register_buffer("bias", (-1 - means.square().sum(1)).masked_fill(~seen, -torch.inf))

    def forward(self, f: Tensor) -> Tensor:
        return F.normalize(f, dim=1) @ self.weight + self.bias


def _example(shape: tuple[int, int, int]) -> Tensor:
    return torch.zeros(2, *shape, dtype=torch.uint8)


def _write_torch(network: nn.Module, shape: tuple[int, int, int], known: dict[str, Any], file: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(network, (_example(shape),), dynamic_shapes=({0: torch.export.Dim("n")},))
    extra = {f"{name}.json": json.dumps(value, ensure_ascii=False) for name, value in known.items()}
    with file.open("wb") as out, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")  # of weights that share memory; on CPU
        torch.export.save(program, out, extra_files=extra)


def _write_onnx(network: nn.Module, shape: tuple[int, int, int], known: dict[str, Any], file: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise SettingError(f"ONNX needs {error.name}: pip install 'everlearn[export]'") from error
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (_example(shape),), dynamo=True, input_names=["pictures"], output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for name, value in known.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
