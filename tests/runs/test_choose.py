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
