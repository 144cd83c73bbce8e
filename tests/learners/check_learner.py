"""What holds for every learner; the test calls `check_learner` with a way to build one."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from everlearn.data import Batch
from everlearn.errors import SettingError
from everlearn.models import Model

CODES = [7, 3, 100, 0, 5, 12]  # any order, any gaps: a learner numbers classes by discovery
SIZES = [1, 10, 10, 7, 10, 10, 10, 1]  # batches, two to a task: one sample at the beginning and at the end


def small_model(seed=0):
    """BatchNorm and dropout, so that statistics and random draws matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.1),
            nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        return Model(backbone, feature_dim=8)


def stream(sizes=SIZES, tasks=True, seed=0):
    """Batches of pictures whose class shows; a task brings one or two new classes, the second one a batch later."""
    generator = torch.Generator().manual_seed(seed)
    batches, start = [], 0
    for i, n in enumerate(sizes):
        task = i // 2
        newest = min(i + 1, len(CODES) - 1)
        which = torch.randint(max(0, newest - 1), newest + 1, (n,), generator=generator)
        noise = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
        inputs = (noise + 30 * which[:, None, None, None] * (torch.arange(8) % 3 == 1)).to(torch.uint8)
        ids = torch.arange(start, start + n)
        batches.append(Batch(inputs, torch.tensor(CODES)[which], ids, task if tasks else None, end=start + n))
        start += n
    return batches


def check_learner(build):
    """``build(seed=0, optimizer=None)`` gives a new learner of one method, over a new model of that seed."""
    takes_in_every_sample(build)
    resumes_to_the_bit(build)
    resumes_to_the_bit(build, lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4))
    resumes_to_the_bit(build, lambda model: torch.optim.AdamW(model.parameters(), 0.01))
    two_do_not_touch_each_other(build)
    evaluation_changes_nothing(build)
    borders_are_asked_for_only_where_they_are_needed(build)


def same(a, b):
    """Two states hold the same names, types and bits."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def snapshot(learner):
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


def run(learner, batches):
    for batch in batches:
        learner.observe(batch)
    return snapshot(learner)


def takes_in_every_sample(build):
    learner, seen, order = build(), 0, []
    random = torch.random.get_rng_state()
    for i, batch in enumerate(stream()):
        report = learner.observe(batch)
        seen += len(batch)
        order += [code for code in dict.fromkeys(batch.labels.tolist()) if code not in order]
        assert (report.step, report.samples) == (i + 1, len(batch))
        assert torch.isfinite(report.loss) and report.loss.ndim == 0 and not report.loss.requires_grad
        assert learner.samples_seen == seen and learner.step == i + 1
        assert 0 < learner.memory.size <= learner.memory.capacity
        held = learner.memory.ids[: learner.memory.size].tolist()
        assert len(set(held)) == len(held) and max(held) < seen
        prediction = learner.predict(batch.inputs)
        assert prediction.codes == order == learner.classes.codes  # a class's index never changes
        assert prediction.probabilities.shape == (len(batch), len(order))
        torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(len(batch)))
        assert set(prediction.labels.tolist()) <= set(order)
    features = learner.features(batch.inputs)
    assert features.dtype == torch.float32 and len(features) == len(batch) and not features.requires_grad
    assert len(learner.predict(batch.inputs[:0]).labels) == 0
    assert torch.equal(random, torch.random.get_rng_state())


def resumes_to_the_bit(build, optimizer=None):
    batches = stream()
    whole = build(optimizer=optimizer)
    for stop in range(len(batches)):
        if stop == 5:
            whole.end_task()
        written = save({name: tensor.contiguous() for name, tensor in whole.state_dict().items()})
        resumed = build(optimizer=optimizer)
        if stop:
            resumed.load_state_dict(load(written))
            same(resumed.state_dict(), whole.state_dict())
        whole.observe(batches[stop])
        resumed.observe(batches[stop])
        same(resumed.state_dict(), whole.state_dict())
    a, b = whole.predict(batches[0].inputs), resumed.predict(batches[0].inputs)
    assert torch.equal(a.probabilities, b.probabilities) and a.codes == b.codes


def two_do_not_touch_each_other(build):
    batches, others = stream(), stream(seed=1)
    alone = run(build(), batches)
    one, two = build(), build(seed=5)
    for batch, other in zip(batches, others):
        two.observe(other)
        one.observe(batch)
        two.predict(other.inputs)
    same(snapshot(one), alone)
    assert any(not torch.equal(alone[name], tensor) for name, tensor in snapshot(two).items() if name in alone)


def evaluation_changes_nothing(build):
    batches = stream()
    quiet, watched = build(), build()
    for batch in batches:
        random = torch.random.get_rng_state()
        quiet.observe(batch)
        watched.observe(batch)
        same(snapshot(watched), snapshot(quiet))
        mode = watched.model.training
        watched.predict(batch.inputs)
        watched.features(batch.inputs, chunk=3)
        watched.predict(batch.inputs, chunk=1)
        assert watched.model.training == mode
        assert torch.equal(random, torch.random.get_rng_state())


def borders_are_asked_for_only_where_they_are_needed(build):
    learner = build()
    if not learner.needs_tasks:
        run(learner, stream(tasks=False))
        return
    before = snapshot(learner)
    with pytest.raises(SettingError, match="needs a stream with task borders and this one has none"):
        learner.observe(stream(tasks=False)[0])
    same(snapshot(learner), before)
