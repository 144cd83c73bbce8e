"""A small reviewed run, and a server on it."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.data import load
from everlearn.runs import Config, Run, learn
from everlearn.runs.guard import held_out, split
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Review, Reviews


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory):
    """Three digits, learned in a second or two."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reviewed")
    digits = load_digits()
    keep = np.flatnonzero(digits.target < 3)[:150]
    for i in keep:
        file = folder / "data" / str(digits.target[i]) / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)).save(file)
    config = Config.of({
        "data": {"source": str(folder / "data"), "size": 8, "channels": 1, "holdout": 0.3},
        "learner": {"method": "er", "memory": 40, "precision": "float32"},
        "stream": {"tasks": 3},
    })  # fmt: skip
    with Run.create(folder / "run", config) as run:
        learn(run)
    return folder / "run"


@pytest.fixture
def run_path(learned_run, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(learned_run, tmp_path / "run")


@pytest.fixture(scope="session")
def pictures(learned_run):
    """Held-out pictures of the worklist, and the names of their classes."""
    with Run.open(learned_run) as run:
        source, _, indices = held_out(run)
        inputs, labels, _ = load(source, split(indices, run.config.seed)[1])
    return inputs, [source.class_names[label] for label in labels.tolist()]


@pytest.fixture
def opened(run_path):
    """``opened()`` opens the run for reviewing: run, reviews, and the one who learns."""
    open_now = []

    def begin(**settings):
        run = Run.open(run_path, write=True)
        reviews = Reviews(run.journal.file)
        desk = SimpleNamespace(run=run, reviews=reviews, reviewing=None)
        open_now.append(desk)
        desk.reviewing = Reviewing(run, reviews, **settings)
        desk.close = lambda: (reviews.close(), run.close(), open_now.remove(desk))
        return desk

    yield begin
    for desk in open_now:
        desk.reviews.close()
        desk.run.close()


@pytest.fixture
def verdicts(pictures):
    """Twelve verdicts: corrections to one wrong class after another, confirmations between them."""
    inputs, names = pictures
    found = []
    for i in range(12):
        label = names[i] if i % 2 else ["0", "1", "2", "new"][i % 4]
        found.append(Review(f"s{i}", "accept" if i % 2 else "correct", label, inputs[i].numpy(), key=f"key-number-{i}"))
    return found
