"""Runs: a directory with everything of a learner's life; killed at any moment, it goes on to the same bits."""

from everlearn.runs.build import build_learner, build_source, build_stream, default_lr
from everlearn.runs.config import Config
from everlearn.runs.evaluate import evaluate_source
from everlearn.runs.journal import Journal
from everlearn.runs.learn import Moment, Prepared, go_on_with, learn, prepare
from everlearn.runs.outcomes import accuracy
from everlearn.runs.run import Run

__all__ = [
    "Config",
    "Journal",
    "Moment",
    "Prepared",
    "Run",
    "accuracy",
    "build_learner",
    "build_source",
    "build_stream",
    "default_lr",
    "evaluate_source",
    "go_on_with",
    "learn",
    "prepare",
]
