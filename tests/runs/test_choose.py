"""What is chosen where nothing is said: a table of cases; what is said always wins."""

from pathlib import Path

import pytest

from everlearn.runs.choose import Seen, backbone_of, choose

SMALL = {"size": 32, "channels": 3, "samples": 50_000, "classes": 10, "in_memory": False, "cores": 8}
FILE = Path("tf_efficientnet_lite0_imagenet.safetensors")
LITE = {"weights": FILE, "backbone": "tf_efficientnet_lite0"}

CASES = [
    ("CIFAR-10", {}, {}, {"backbone": "slim_resnet18", "size": 32, "method": "aser", "lr": 0.1, "memory": 1000,
                          "tasks": 5, "workers": 4, "channels": 3}),
    ("digits", {"size": 8, "channels": 1, "in_memory": True}, {}, {"size": 8, "channels": 1, "workers": 0}),
    ("photographs, no weights", {"size": 224}, {}, {"backbone": "slim_resnet18", "size": 64, "method": "aser"}),
    ("photographs, weights", {"size": 224, **LITE}, {}, {"backbone": "tf_efficientnet_lite0", "size": 224,
                                                         "weights": str(FILE), "method": "ncm", "lr": 0.01}),
    ("small pictures, weights", LITE, {}, {"size": 128, "method": "ncm"}),
    ("grey pictures, weights", {"channels": 1, **LITE}, {}, {"channels": 3}),
    ("weights and an accelerator", {"accelerator": "cuda", **LITE}, {}, {"method": "aser", "lr": 0.01}),
    ("weights, another backbone said", LITE, {"backbone": "resnet18"}, {"weights": None, "method": "aser", "size": 32}),
    ("pretrained said", {}, {"pretrained": True}, {"backbone": "tf_efficientnet_lite0", "method": "ncm", "size": 128}),
    ("method said", LITE, {"method": "er"}, {"method": None, "backbone": "tf_efficientnet_lite0"}),
    ("everything said", LITE, {"backbone": "resnet18", "size": 40, "channels": 1, "method": "er", "lr": 0.5,
                               "memory": 7, "tasks": 2, "workers": 3}, dict.fromkeys(
        ("backbone", "weights", "size", "channels", "method", "lr", "memory", "tasks", "workers"))),
    ("many classes", {"classes": 200}, {}, {"memory": 4000, "tasks": 5}),
    ("two classes", {"classes": 2}, {}, {"tasks": 2}),
    ("few samples", {"samples": 300}, {}, {"workers": 0, "memory": 1000}),
    ("one core", {"cores": 1}, {}, {"workers": 0}),
    ("large pictures kept", {"classes": 1000}, {"backbone": "resnet50", "size": 512}, {"memory": 682}),
    ("an upper bound", {}, {"method": "joint"}, {"memory": 50_000}),
    ("by time", {}, {"scenario": "time"}, {"tasks": None}),
    ("a long stream", {}, {}, {"average": 0.01}),
    ("a short stream", {"samples": 2500}, {}, {"average": 0.2}),
    ("another mean predicts", {}, {"method": "er", "options": {"mkd": 1.0}}, {"average": None}),
    ("many samples for each place", {}, {}, {"shapley_update": None}),
    ("few samples for each place", {}, {"memory": 2000}, {"shapley_update": False, "method": "aser"}),
    ("an update said", {}, {"memory": 2000, "options": {"shapley_update": True}}, {"shapley_update": None}),
    ("another method", {}, {"memory": 2000, "method": "er"}, {"shapley_update": None}),
    ("nothing is trained", {}, {"method": "slda"}, {"average": None}),
]  # fmt: skip


AVERAGES = [
    ("two classes", {"classes": 2, "samples": 1000}, {}, 5, "a task has 50"),
    ("shuffled", {"samples": 2000}, {"scenario": "shuffled"}, 20, "the stream has 200"),
    ("blurred", {"samples": 2000}, {"scenario": "blurred"}, 20, "the stream has 200"),
    ("domains", {"samples": 2000}, {"scenario": "domain", "shifts": ["none", "blur"]}, 10, "a task has 100"),
    ("sites", {"samples": 3000, "sites": 3}, {"scenario": "site"}, 10, "a task has 100"),
    ("own tasks", {"samples": 3000, "tasks": 2}, {"scenario": "task"}, 15, "a task has 150"),
    ("time", {"samples": 3000, "classes": 2}, {"scenario": "time"}, 6, "a task has 60"),
    ("watched", {"samples": 1000}, {"watch": True}, 10, "the stream has 100"),
]


@pytest.mark.parametrize(("seen", "given", "steps", "why"), [c[1:] for c in AVERAGES], ids=[c[0] for c in AVERAGES])
def test_weights_are_averaged_over_a_tenth_of_a_task(seen, given, steps, why):
    found = choose(Seen(**(SMALL | seen)), given)["average"]
    assert found.value == pytest.approx(1 / steps)
    assert found.why.endswith(why)


@pytest.mark.parametrize(("seen", "given", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_table(seen, given, expected):
    found = choose(Seen(**(SMALL | seen)), given)
    for name, value in expected.items():
        assert (found[name].value if name in found else None) == value, name
    assert all(each.why for each in found.values())
    assert not found.keys() & given.keys()


def test_weights_are_known_by_their_name():
    assert backbone_of(FILE) == "tf_efficientnet_lite0"
    assert backbone_of(Path("slim_resnet18.safetensors")) == "slim_resnet18"
    assert backbone_of(Path("weights.safetensors")) is None
