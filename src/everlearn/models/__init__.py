"""Models: backbones, heads that grow, and the two joined."""

from everlearn.models.heads import LinearHead, NearestClassMean
from everlearn.models.model import Model
from everlearn.models.text import TextModel, build_text_model
from everlearn.models.vision import OURS, SlimResNet18, build_model

__all__ = [
    "OURS",
    "LinearHead",
    "Model",
    "NearestClassMean",
    "SlimResNet18",
    "TextModel",
    "build_model",
    "build_text_model",
]
