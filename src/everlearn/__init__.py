"""Everlearn: AI that keeps learning and says why.

Learn a stream with a bounded memory, explain each decision by pixels and by remembered cases.

Examples
--------
>>> import everlearn as el
>>> stream = el.class_incremental(el.open_source("builtin:digits"), tasks=5)
>>> learner = el.ER(el.build_model("slim_resnet18", channels=1, size=8), memory=50)
>>> report = learner.observe(next(stream.batches(10)))
>>> report.step, learner.samples_seen
(1, 10)
"""

from everlearn.data import (
    Batch,
    Source,
    Stream,
    blurred,
    by_site,
    by_task,
    by_time,
    class_incremental,
    load,
    open_source,
    read_picture,
    shuffled,
)
from everlearn.errors import DataError, EverlearnError, ModelError, RunError, SettingError
from everlearn.explainers import SISE, Evidence, Explanation, GradCAM, evidence, explain
from everlearn.learners import ASER, ER, Learner, Naive, Prediction, StepReport
from everlearn.memory import Memory
from everlearn.models import Model, build_model
from everlearn.valuation import knn_shapley

__all__ = [
    "ASER",
    "ER",
    "SISE",
    "Batch",
    "DataError",
    "EverlearnError",
    "Evidence",
    "Explanation",
    "GradCAM",
    "Learner",
    "Memory",
    "Model",
    "ModelError",
    "Naive",
    "Prediction",
    "RunError",
    "SettingError",
    "Source",
    "StepReport",
    "Stream",
    "blurred",
    "build_model",
    "by_site",
    "by_task",
    "by_time",
    "class_incremental",
    "evidence",
    "explain",
    "knn_shapley",
    "load",
    "open_source",
    "read_picture",
    "shuffled",
]
