"""The planner: memory, time and cost of a training run on a cluster, before anyone pays for it."""

from everlearn.scaling.plan.cluster import Cluster, Device, load_cluster
from everlearn.scaling.plan.collectives import Collective
from everlearn.scaling.plan.config import ModelShape, load_shape, preset_names
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.plan import Plan, collectives_of, predict
from everlearn.scaling.plan.search import search
from everlearn.scaling.plan.validate import validate

__all__ = [
    "Cluster",
    "Collective",
    "Device",
    "Layout",
    "ModelShape",
    "Plan",
    "collectives_of",
    "load_cluster",
    "load_shape",
    "predict",
    "preset_names",
    "search",
    "validate",
]
