"""One of two processes that learn together, for every method that allows it; test_processes.py starts them.

python two_processes.py FOLDER
"""

import copy
import sys
from pathlib import Path

import check_learner as check
import torch
from safetensors.torch import load_file, save_file
from test_every_method import SETTINGS

from everlearn.learners import METHODS, Group, collect, deal
from everlearn.learners.predicting import class_means
from everlearn.models import Model
from everlearn.scaling.processes import connect, leave

METHODS_TOGETHER = [name for name in METHODS if name not in ("joint", "offline", "gdumb")]
OPTIONS = {
    "er": {"review": 0.5, "average": 0.1, "iterations": 2},
    "aser": {"classifier": "ncm", "mkd": 1.0},
    "er_ace": {"augment": "crop"},
}


def build(name, group, seed=0, memory=21):
    settings = {"memory": memory, **SETTINGS.get(name, {}), **OPTIONS.get(name, {})}
    return METHODS[name](check.small_model(seed), seed=seed, precision="float32", group=group, **settings)


def parts(batch, group):
    """This process's samples; of a batch of one sample another process has none."""
    return batch.select(torch.tensor_split(torch.arange(len(batch)), group.size)[group.rank])


def learn(learner, batches):
    for batch in batches:
        part = parts(batch, learner.group)
        report = learner.observe(part) if len(part) else learner.stand_by(part)
        assert report.samples == len(batch) and torch.isfinite(report.loss)
    learner.end_task()
    return learner


def same(one, other):
    """To the bit, but for BatchNorm's count of batches, which nothing rests on and which rank 0 keeps."""
    states = [check.snapshot(learner) for learner in (one, other)]
    check.same(*({k: t for k, t in state.items() if "num_batches_tracked" not in k} for state in states))


def every_method(group, folder):
    batches = check.stream()
    for name in METHODS_TOGETHER:
        seed = 0 if name == "random_features" else group.rank  # the first weights are rank 0's
        whole = learn(build(name, group, seed), batches[:5])
        state = collect(whole)
        file = folder / f"{name}.safetensors"
        if state is not None:
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
        group.first(lambda: None)
        resumed = build(name, group, seed)
        resumed.load_state_dict(deal(load_file(file), resumed))
        same(resumed, whole)
        same(learn(resumed, batches[5:]), learn(whole, batches[5:]))
        collect(whole)  # refuses weights that differ
        assert whole.samples_seen == sum(map(len, batches)) and whole.step == len(batches)
        assert whole.memory.capacity == (11 if group.rank == 0 else 10)
        whole.ready()
        said = whole.predict(batches[1].inputs).probabilities
        assert torch.equal(group.gather(said), torch.cat([said, said]))


def one_step_is_the_same(group):
    """Two processes take the step that one takes on all of the samples, whoever has how many of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten()]
        linear = [torch.nn.Linear(216, 8), torch.nn.BatchNorm1d(8)]
    for sizes in ([9], [2], [1]):
        batch = check.stream(sizes)[0]
        learners = [
            METHODS["naive"](
                Model(copy.deepcopy(torch.nn.Sequential(*layers, *linear)), 8), precision="float32", group=g
            )
            for g in (group, Group())
        ]
        for learner, part in zip(learners, (parts(batch, group), batch)):
            report = learner.observe(part) if len(part) else learner.stand_by(part)
        for (name, p), q in zip(learners[0].model.state_dict().items(), learners[1].model.state_dict().values()):
            if "num_batches" not in name:
                torch.testing.assert_close(p, q, msg=lambda text: f"{name}, {sizes}: {text}")  # noqa: B023
        assert torch.isfinite(report.loss)


def class_means_are_those_of_all_of_memory(group):
    learner = learn(build("er", group), check.stream())
    learner.classifier = "ncm"
    learner.ready()
    means = class_means(learner).means
    f = group.gather(learner.features(learner.memory.inputs[: learner.memory.size]))
    y = group.gather(learner.memory.targets[: learner.memory.size])
    normal = torch.nn.functional.normalize(f, dim=1)
    for c in y.unique().tolist():
        expected = torch.nn.functional.normalize(normal[y == c].sum(0), dim=0)
        torch.testing.assert_close(means[c], expected)


if __name__ == "__main__":
    torch.set_num_threads(1)
    group = Group(*connect())
    one_step_is_the_same(group)
    class_means_are_those_of_all_of_memory(group)
    every_method(group, Path(sys.argv[1]))
    leave()
