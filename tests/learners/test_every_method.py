"""`check_learner` on every method, and the options that combine with many."""

import check_learner as check
import pytest
import torch

from everlearn.errors import SettingError
from everlearn.learners import METHODS

SETTINGS = {
    "joint": {"memory": 100},
    "offline": {"memory": 100, "epochs": 2},
    "gdumb": {"epochs": 2},
    "aser": {"candidates": 6},
    "mir": {"candidates": 12},
    "scr": {"replay": 10},
    "random_features": {"width": 16},
}


def builder(name, **settings):
    settings = {"memory": 20, **SETTINGS.get(name, {}), **settings}

    def build(seed=0, optimizer=None):
        model = check.small_model(seed)
        return METHODS[name](model, optimizer and optimizer(model), seed=seed, precision="float32", **settings)

    return build


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name):
    check.check_learner(builder(name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("er", {"loss": "labels_trick", "iterations": 2, "review": 0.5}),
        ("er", {"loss": "separated", "augment": "crop,flip,colour", "classifier": "ncm"}),
        ("er_ace", {"mkd": 5.5, "augment": "resized_crop,grey"}),
        ("der", {"mkd": 1.0, "iterations": 2, "augment": "flip"}),
        ("mir", {"mkd": 5.5, "loss": "labels_trick"}),
        ("aser", {"mkd": 5.5, "classifier": "ncm"}),
        ("aser", {"average": 0.1}),
        ("agem", {"average": 0.1}),
        ("agem", {"mkd": 5.5, "augment": "flip"}),
        ("ewc", {"average": 0.1}),
        ("lwf", {"average": 0.1}),
        ("scr", {"average": 0.1}),
        ("er", {"average": 0.1, "classifier": "ncm"}),
        ("slda", {"inputs": "raw"}),
        ("ewc", {"loss": "labels_trick"}),
    ],
)
def test_options_combine(name, options):
    build = builder(name, **options)
    check.resumes_to_the_bit(build)
    check.evaluation_changes_nothing(build)


def test_review_is_a_pass_over_memory_where_a_task_ends():
    reviewed, plain = builder("er", review=0.1)(), builder("er")()
    for learner in (reviewed, plain):
        check.run(learner, check.stream())
    check.same(check.snapshot(reviewed), check.snapshot(plain))
    steps, rate = reviewed.step, reviewed.optimizer.param_groups[0]["lr"]
    reviewed.end_task()
    plain.end_task()
    pairs = list(zip(reviewed.model.parameters(), plain.model.parameters()))
    assert not all((p == q).all() for p, q in pairs)
    assert (reviewed.step, reviewed.optimizer.param_groups[0]["lr"]) == (steps, rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'; expected one of softmax, labels_trick, separated"),
        ({"iterations": 0}, "iterations is 0; expected 1 or more steps on each batch"),
        ({"review": 2.0}, "review is 2.0; expected a share of the learning rate from 0"),
        ({"mkd": -1.0}, "mkd is -1.0; expected 0"),
        ({"mkd": float("nan")}, "mkd is nan; expected a finite number"),
        ({"rrr": float("inf")}, "rrr is inf; expected a finite number"),
        ({"average": 1.5}, "average is 1.5; expected a share from 0"),
        ({"average": 0.1, "mkd": 1.0}, "average is 0.1 beside mkd, which has its own"),
        ({"augment": "crop,twist"}, "augment has 'twist'; expected some of crop, resized_crop, flip, colour, grey"),
        ({"tempo": 3}, "ER has no setting 'tempo'; of those all share there are loss, iterations, augment"),
    ],
)
def test_bad_options_get_one_line(options, message):
    with pytest.raises(SettingError, match=message):
        builder("er", **options)()


def test_naive_takes_no_review_of_its_memory():
    with pytest.raises(SettingError, match="Naive does not combine with review"):
        builder("naive", review=0.1)()


def test_random_features_are_the_same_whoever_asks_first():
    batches = check.stream()
    one = builder("random_features")()
    check.run(one, batches[:4])
    other = builder("random_features")()
    other.load_state_dict(check.snapshot(one))
    other.predict(batches[0].inputs)
    check.same(check.run(one, batches[4:]), check.run(other, batches[4:]))


def test_views_repeat_each_sample_augmented_anew():
    build = builder("er", views=3, augment="crop")
    check.resumes_to_the_bit(build)
    with pytest.raises(SettingError, match="views is 2; expected 1 or more, and an augment to tell them apart if more"):
        builder("er", views=2)()


@pytest.mark.parametrize(("name", "options"), [("scr", {}), ("slda", {}), ("er", {"mkd": 1.0}), ("gdumb", {})])
def test_a_prediction_without_gradients_does_not_hinder_one_with(name, options):
    learner = builder(name, **options)()
    check.run(learner, check.stream()[:3])
    inputs = check.stream()[1].inputs
    with torch.inference_mode():
        learner.predict(inputs)
    x = learner.model.normalise(inputs).requires_grad_()
    learner.model.eval()
    learner.logits(x)[:, 0].sum().backward()
    assert x.grad.abs().sum() > 0
