"""Losses against loops, and the momentum teacher."""

import math

import pytest
import torch
from torch.nn import functional as F

from everlearn.learners.losses import distillation, labels_trick, present, separated_softmax, supervised_contrastive
from everlearn.learners.momentum import MomentumTeacher
from everlearn.models import build_model


@pytest.fixture
def logits(rng):
    return torch.randn(6, 5, generator=rng).requires_grad_()


def test_labels_trick_is_cross_entropy_over_the_classes_at_hand(logits):
    targets = torch.tensor([1, 4, 4, 1, 1, 4])
    expected = F.cross_entropy(logits[:, [1, 4]], (targets == 4).long())
    torch.testing.assert_close(labels_trick(logits, targets), expected)
    labels_trick(logits, targets).backward()
    assert (logits.grad[:, [0, 2, 3]] == 0).all() and torch.isfinite(logits.grad).all()


def test_separated_softmax_is_one_softmax_for_each_side(logits):
    targets = torch.tensor([0, 1, 2, 3, 4, 4])
    expected = F.cross_entropy(logits[:2, :2], targets[:2], reduction="sum")
    expected = expected + F.cross_entropy(logits[2:, 2:], targets[2:] - 2, reduction="sum")
    torch.testing.assert_close(separated_softmax(logits, targets, old=2), expected / 6)
    for old in (0, 5):
        torch.testing.assert_close(separated_softmax(logits, targets, old), F.cross_entropy(logits, targets))


def test_present_has_no_more_than_what_occurs():
    assert present(torch.tensor([], dtype=torch.int64), 3).tolist() == [False] * 3


def test_supervised_contrastive_against_the_equation(rng):
    z = F.normalize(torch.randn(7, 4, generator=rng), dim=1)
    labels, tau = [0, 1, 0, 2, 1, 0, 0], 0.3
    terms = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        partners = [p for p in others if labels[p] == labels[i]]
        if partners:
            total = sum(math.exp(float(z[i] @ z[a]) / tau) for a in others)
            terms.append(-sum(math.log(math.exp(float(z[i] @ z[p]) / tau) / total) for p in partners) / len(partners))
    found = supervised_contrastive(z, torch.tensor(labels), tau)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)  # label 2 stands alone and is left out


def test_supervised_contrastive_of_lone_samples_is_zero(rng):
    z = F.normalize(torch.randn(3, 4, generator=rng), dim=1).requires_grad_()
    loss = supervised_contrastive(z, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(z.grad).all()


def test_distillation_against_the_equation(logits):
    taught = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    p, q = (taught / 3).softmax(1), (logits / 3).softmax(1)
    torch.testing.assert_close(distillation(logits, taught, 3.0), 9 * (p * (p / q).log()).sum(1).mean())


def test_the_teacher_follows_weights_and_statistics_and_grows(rng):
    student = build_model("slim_resnet18", channels=1, size=8)
    student.head.grow(2, rng)
    teacher = MomentumTeacher(student, alpha=0.25)
    teacher.steps = 9  # long past the first 1/α steps
    student.train()(torch.rand(4, 1, 8, 8, generator=rng))  # statistics move
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    before = {name: t.clone() for name, t in teacher.model.state_dict().items()}
    student.head.grow(3, rng)
    teacher.grow(student)
    assert torch.equal(teacher.model.head.weight[2:], student.head.weight[2:])
    teacher.follow(student)
    now = student.state_dict()
    for name, t in teacher.model.state_dict().items():
        if name.startswith("backbone.") and t.is_floating_point():
            torch.testing.assert_close(t, 0.75 * before[name] + 0.25 * now[name])


def test_the_teacher_begins_as_the_mean_of_the_steps(rng):
    student = build_model("slim_resnet18", channels=1, size=8)
    teacher, seen = MomentumTeacher(student, alpha=0.01), []
    for i in range(4):
        with torch.no_grad():
            student.backbone.conv1.weight.fill_(float(i * i))
        teacher.follow(student)
        seen.append(i * i)
        assert teacher.model.backbone.conv1.weight.mean().item() == pytest.approx(sum(seen) / len(seen), rel=1e-5)


def test_the_mean_goes_through_the_students_own_modules(rng):
    """Explainers hook them."""
    student = build_model("slim_resnet18", channels=1, size=8)
    student.head.grow(2, rng)
    teacher = MomentumTeacher(student)
    student.eval()
    seen = []
    handle = student.backbone.layer4.register_forward_hook(lambda module, args, out: seen.append(out))
    means, x = teacher.means(student), torch.rand(2, 1, 8, 8, generator=rng)
    f = torch.func.functional_call(student, means, (x,))
    handle.remove()
    f.sum().backward()
    assert len(seen) == 1 and seen[0].requires_grad
    assert all(p.grad is None for p in student.parameters())
