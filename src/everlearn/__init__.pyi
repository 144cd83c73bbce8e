from .data import (
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
from .errors import DataError, EverlearnError, ModelError, RunError, SettingError
from .explainers import SISE, Evidence, Explanation, GradCAM, evidence, explain
from .learners import ASER, ER, Learner, Naive, Prediction, StepReport
from .memory import Memory
from .models import Model, build_model
from .valuation import knn_shapley

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
