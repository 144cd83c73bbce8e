"""Every method learns, and those that should do not forget: four classes in two tasks, told apart by their patterns."""

import check_learner as check
import pytest
import torch

from everlearn.data import Batch
from everlearn.learners import METHODS

PATTERNS = torch.randint(256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(3))
FORGET = {"naive", "lwf", "ewc", "agem"}  # their papers' own setting has a head for each task
SETTINGS = {
    "joint": {"memory": 1000, "epochs": 3},
    "offline": {"memory": 1000, "epochs": 8},
    "gdumb": {"epochs": 20},
    "aser": {"candidates": 20},
    "scr": {"replay": 20, "augment": "crop"},
    "mkd": {"augment": None, "mkd": 1.0},
    "random_features": {"width": 100},
}


def batches(steps=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(steps):
        task = 2 * i // steps
        which = torch.randint(2, (10,), generator=generator) + 2 * task
        noise = torch.randint(-60, 61, (10, 1, 8, 8), generator=generator)
        inputs = (PATTERNS[which] + noise).clamp(0, 255).to(torch.uint8)
        yield Batch(inputs, which, torch.arange(10 * i, 10 * i + 10), task)


def final_accuracy(name, steps):
    model = check.small_model()
    model.backbone[3].p = 0.0  # dropout would only slow it down
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    settings = {"memory": 40, **SETTINGS.get(name, {})}
    learner = METHODS[name](model, optimizer, precision="float32", **settings)
    task = 0
    for batch in batches(steps):
        if batch.task != task:
            learner.end_task()
            task = batch.task
        learner.observe(batch)
    learner.end_task()
    held_out = list(batches(seed=9))
    inputs, labels = (torch.cat([getattr(b, part) for b in held_out]) for part in ("inputs", "labels"))
    right = learner.predict(inputs).labels == labels
    return [float(right[(labels // 2) == task].float().mean()) for task in (0, 1)]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "aser"])  # its retrieval wants a longer stream
def test_it_learns_and_keeps_what_it_should(name):
    first, last = final_accuracy(name, steps=120 if name == "mkd" else 40)
    if name in FORGET:
        assert last > 0.8
    else:
        assert (first + last) / 2 > 0.75  # naive has 0.5
