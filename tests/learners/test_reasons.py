"""`rrr` and `region`: what is stored, what is penalised, and that it works."""

import check_learner as check
import pytest
import torch
from test_every_method import builder
from torch.nn import functional as F

from everlearn.data import Batch
from everlearn.errors import DataError, SettingError
from everlearn.explainers import GradCAM
from everlearn.explainers.layers import FeatureMap
from everlearn.learners import ER
from everlearn.learners.augment import Augment
from everlearn.learners.frames import in_foreign_frames
from everlearn.learners.reasons import Marks, Reasons, Saliency, shares, take_maps
from everlearn.memory import Memory

LEFT = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
LEFT[..., :4] = 255


def with_regions(batches):
    """Every second sample brings a region, the left half; the others none."""
    found = []
    for batch in batches:
        regions = torch.full((len(batch), 1, 8, 8), 255, dtype=torch.uint8)
        regions[::2] = LEFT
        found.append(Batch(batch.inputs, batch.labels, batch.ids, batch.task, batch.end, regions))
    return found


@pytest.fixture
def regions_everywhere(monkeypatch):
    plain = check.stream
    monkeypatch.setattr(check, "stream", lambda *args, **settings: with_regions(plain(*args, **settings)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("er", {"rrr": 1.0, "region": 1.0}),
        ("er", {"rrr": 1.0, "region": 1.0, "augment": "crop,flip,colour", "views": 2, "review": 0.1, "average": 0.1}),
        ("er_ace", {"rrr": 1.0, "region": 1.0, "mkd": 1.0, "iterations": 2}),
        ("der", {"rrr": 1.0, "region": 1.0}),
        ("aser", {"rrr": 1.0, "region": 1.0}),
        ("mir", {"rrr": 1.0}),
        ("er", {"frames": 0.5}),
        ("offline", {"frames": 1.0, "region": 1.0}),
        ("gss", {"region": 1.0}),
        ("naive", {"region": 1.0}),
        ("offline", {"region": 1.0, "augment": "crop"}),
    ],
)
def test_they_combine_and_resume_to_the_bit(name, options, regions_everywhere):
    build = builder(name, **options)
    check.resumes_to_the_bit(build)
    check.evaluation_changes_nothing(build)
    check.run(build(), check.stream(tasks=False))


def saliency(A, weight, targets):
    """Of a linear head over means of the maps ``A [n, K, h, w]``."""
    A = torch.tensor(A, requires_grad=True)
    logits = A.mean((2, 3)) @ torch.tensor(weight).T
    return Saliency(FeatureMap(A, "first", A.shape[2:]), logits, torch.tensor(targets)), logits


def test_drift_in_closed_form():
    maps = [[[[3.0, 1.0]]], [[[1.0, 1.0]]], [[[0.0, 4.0]]]]
    seen, _ = saliency(maps, [[1.0], [0.0]], [0, 0, 0])
    before = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]], [[[0.0, 1.0]]]])  # the second has none
    found = Reasons(Memory(4), rrr=2.0, region=0.0).penalty(seen, Marks(before, torch.ones(3, 1, 1, 2)))
    torch.testing.assert_close(found, torch.tensor(2.0 * (0.5 + 0.5 + 0.0) / 2))


def test_evidence_outside_is_the_share_of_the_log_odds_in_nats():
    seen, logits = saliency([[[[3.0, 1.0]]], [[[2.0, 4.0]]], [[[0.0, 4.0]]]], [[1.0], [-1.0]], [0, 1, 0])
    own = logits.gather(1, torch.tensor([[0], [1], [0]]))[:, 0]
    other = logits.gather(1, torch.tensor([[1], [0], [1]]))[:, 0]
    torch.testing.assert_close(seen.evidence().sum((1, 2, 3)), own - other)  # of two classes, linear head over means
    regions = torch.tensor([[[[1.0, 0.0]]], [[[0.5, 0.0]]], [[[1.0, 1.0]]]])  # the third has none
    found = Reasons(Memory(4), rrr=0.0, region=3.0).penalty(seen, Marks(torch.zeros(3, 1, 1, 1), regions))
    torch.testing.assert_close(found, torch.tensor(3.0 * (1.0 + (0.5 * 2.0 + 4.0)) / 2))
    assert not Saliency(seen.last, logits[:, :1], torch.tensor([0, 0, 0])).evidence().any()  # one class: no odds


def test_maps_are_grad_cam_as_it_was_when_the_task_ended():
    learner, batches = builder("er", rrr=1.0, memory=100)(), check.stream()
    for batch in batches[:2]:  # the first task
        learner.observe(batch)
    assert not learner.reasons.known.any()
    held = learner.memory.size
    x, y = learner.model.normalise(learner.memory.inputs[:held]), learner.memory.targets[:held]
    cam = GradCAM(learner.model)
    wanted = torch.stack([shares(_grid(cam, x[i : i + 1], y[i : i + 1]))[0, 0] for i in range(held)])
    for batch in batches[2:]:
        learner.observe(batch)
    assert learner.reasons.known[:held].all()
    torch.testing.assert_close(learner.reasons.maps[:held], wanted, rtol=1e-4, atol=1e-5)
    assert not learner.reasons.known[learner.memory.steps[: learner.memory.size].argmax()]  # the last task still runs


def _grid(cam, x, target):
    """Grad-CAM before it is enlarged to the picture."""
    cam.model.eval()
    ((A, gradient),) = cam.maps_and_gradients(x, target, of="logit", last=True)
    return F.relu((gradient.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True))


def test_without_borders_maps_are_taken_on_arrival_and_stay():
    learner = builder("er", rrr=1.0, memory=100)()
    batches = check.stream(tasks=False)
    learner.observe(batches[0])
    learner.observe(batches[1])
    assert learner.reasons.known[:11].all() and learner.reasons.maps.shape[0] == 100
    before = learner.reasons.maps[:11].clone()
    check.run(learner, batches[2:])
    assert torch.equal(learner.reasons.maps[:11], before)


def test_what_is_kept_is_bounded():
    learner = builder("er", rrr=1.0, region=1.0, memory=15)()
    check.run(learner, with_regions(check.stream()))
    h, w = learner.reasons.maps.shape[1:]
    assert learner.reasons.nbytes == 15 * (4 * h * w + 1 + 32 * 32)


def test_regions_follow_their_samples_through_memory():
    learner = builder("er", region=1.0, memory=12)()
    check.run(learner, with_regions(check.stream()))
    held = learner.memory.size
    first = {int(id_): i % 2 == 0 for batch in check.stream() for i, id_ in enumerate(batch.ids)}
    marked = learner.reasons.regions[:held, 0, -1] == 0
    assert marked.tolist() == [first[i] for i in learner.memory.ids[:held].tolist()]


def test_marks_move_as_pictures_do():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 16, 16, generator=generator)
    augment = Augment.of("flip,crop,resized_crop")
    seen, marks = augment.together(x, x.repeat(1, 2, 1, 1), torch.Generator().manual_seed(1))
    assert torch.equal(marks, seen.repeat(1, 2, 1, 1)) and not torch.equal(seen, x)
    assert torch.equal(seen, augment(x, torch.Generator().manual_seed(1)))  # marks change no picture
    bright, kept = Augment.of("colour").together(x, x, torch.Generator().manual_seed(1))
    assert torch.equal(kept, x) and not torch.equal(bright, x)


def two_cues(n, seed, *, agree=True):
    """Two classes told by the way of the stripes in the left half and, more easily, by the grey of the right half."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=generator)
    x = torch.randint(0, 40, (n, 1, 16, 16), generator=generator).to(torch.uint8)
    stripes = (50 * (torch.arange(16) % 4 < 2)).to(torch.uint8)
    for i, label in enumerate(y.tolist()):
        x[i, 0, :, :8] = stripes[:, None] if label else stripes[:8]
        x[i, 0, :, 8:] += 100 * (label if agree else 1 - label)
    return x, y


def trained(seed=0, **options):
    model = check.small_model(seed)
    learner = ER(
        model, torch.optim.SGD(model.parameters(), 0.05), memory=200, seed=seed, precision="float32", **options
    )
    region = torch.zeros(10, 1, 16, 16, dtype=torch.uint8)
    region[..., :8] = 255
    x, y = two_cues(600, seed)
    for i in range(0, 600, 10):
        learner.observe(Batch(x[i : i + 10], y[i : i + 10], torch.arange(i, i + 10), regions=region))
    return learner


@pytest.mark.parametrize("cure", [{"region": 0.5}, {"frames": 0.5}], ids=str)
def test_a_region_makes_the_harder_cue_decide(cure):
    x, y = two_cues(60, 9)
    crossed, wanted = two_cues(60, 8, agree=False)
    right, kept = [], []
    for options in ({}, cure):
        learner = trained(**options)
        right.append(float((learner.predict(crossed).labels == wanted).float().mean()))
        kept.append(float((learner.predict(x).labels == y).float().mean()))
    assert min(kept) > 0.9
    assert right[0] < 0.3 and right[1] > 0.9


def test_foreign_frames_surround_only_what_has_a_region():
    x = torch.arange(8.0)[:, None, None, None].expand(8, 3, 6, 6).contiguous()
    regions = torch.zeros(8, 1, 6, 6)
    regions[:, :, 1:3, 2:5] = 1.0
    regions[0], regions[1] = 1.0, 0.0  # all of the picture; nowhere
    for share, least, most in ((1.0, 3, 6), (0.5, 1, 5), (0.0, 0, 0)):
        seen = in_foreign_frames(x, regions, share, torch.Generator().manual_seed(2))
        assert torch.equal(seen[:, :, 1:3, 2:5], x[:, :, 1:3, 2:5]) and torch.equal(seen[:2], x[:2])
        moved = seen[:, 0, 0, 0] != x[:, 0, 0, 0]
        assert least <= int(moved.sum()) <= most
        assert (seen[moved][:, :, 3:] == seen[moved][:, :1, :1, :1]).all()  # all of it from one other sample


def drifted(weight):
    """How far the first task's maps have moved when a second one, its cues on the other side, has been learned."""
    model = check.small_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    learner = ER(model, optimizer, memory=100, precision="float32", rrr=weight)
    for task in range(2):
        x, y = two_cues(300, task)
        x = x.flip(3) + 40 if task else x
        for i in range(0, 300, 10):
            ids = torch.arange(i, i + 10) + 300 * task
            learner.observe(Batch(x[i : i + 10], y[i : i + 10] + 2 * task, ids, task))
    known = learner.reasons.known.nonzero().flatten()
    before = learner.reasons.maps[known].clone()
    learner.reasons.known[known] = False
    take_maps(learner)
    return float((learner.reasons.maps[known] - before).abs().sum((1, 2)).mean())


def test_remembered_maps_drift_less():
    assert drifted(0.3) < 0.5 * drifted(1e-9)


def test_bad_settings_and_regions_get_one_line():
    with pytest.raises(SettingError, match=r"rrr is -1\.0 and region 0\.0; expected 0 .none. or more for both"):
        builder("er", rrr=-1.0)()
    with pytest.raises(SettingError, match="Naive does not combine with rrr; it allows"):
        builder("naive", rrr=1.0)()
    with pytest.raises(DataError, match=r"a batch of 2 has the regions torch.float32 \(2, 1, 8, 8\); expected uint8"):
        Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), regions=torch.zeros(2, 1, 8, 8))
