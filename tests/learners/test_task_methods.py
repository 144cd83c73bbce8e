"""Methods that look at task borders, against their equations written out for a linear network."""

import pytest
import torch
from linear_oracle import LR, after_step, assert_weights, batch_of, gradient, learner_of, linear_model, logits, weights
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.learners import ER, EWC, ICaRL, LwF

BEFORE = batch_of([0, 1, 1, 0], task=0)
AFTER = [batch_of([2, 3, 3], task=1, seed=s, first=4 + 3 * s) for s in (1, 2)]


def at_the_border(method, **settings):
    """A learner at the first batch of its second task, the head grown already, and its weights."""
    learner = learner_of(method, **settings)
    learner.observe(BEFORE)
    learner.receive(AFTER[0])
    return learner, weights(learner)


def test_lwf_distils_the_old_classes_from_the_model_the_task_found():
    learner, w = at_the_border(LwF, weight=0.5, temperature=2.0)
    past = {name: p.detach().clone() for name, p in w.items()}
    for batch in AFTER:
        learner.observe(batch)
        out = logits(w, batch.inputs)
        log_s, log_t = (out[:, :2] / 2).log_softmax(1), (logits(past, batch.inputs)[:, :2] / 2).log_softmax(1)
        kept = 4 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
        loss = F.cross_entropy(out[:, 2:], batch.labels - 2) + 0.5 * kept
        w = {name: p.requires_grad_() for name, p in after_step(loss, w).items()}
    assert_weights(learner, w)


def test_icarl_asks_old_classes_of_the_past_model():
    learner, w = at_the_border(ICaRL)
    past = {name: p.detach().clone() for name, p in w.items()}
    remembered, labels = BEFORE.inputs, BEFORE.labels
    for batch in AFTER:
        learner.observe(batch)
        inputs, y = torch.cat([remembered, batch.inputs]), torch.cat([labels, batch.labels])
        q = F.one_hot(y, 4).float()
        q[:, :2] = logits(past, inputs)[:, :2].sigmoid()
        p = logits(w, inputs).sigmoid()
        loss = -(q * p.log() + (1 - q) * (1 - p).log()).sum(1).mean()
        w = {name: t.requires_grad_() for name, t in after_step(loss, w).items()}
        remembered, labels = inputs, y
    assert_weights(learner, w)


def test_ewc_holds_on_to_weights_by_their_fisher_information():
    learner = learner_of(EWC, weight=10.0, decay=0.5)
    learner.receive(BEFORE)
    w = weights(learner)
    g = gradient(F.cross_entropy(logits(w, BEFORE.inputs), BEFORE.labels), w)
    learner.observe(BEFORE)
    running = {name: 0.5 * g[name] ** 2 for name in g}
    largest = max(float(f.max()) for f in running.values())
    learner.receive(AFTER[0])  # the head grows by two rows, of which nothing is known
    w = weights(learner)
    running = {name: torch.cat([f, torch.zeros_like(w[name][len(f) :])]) for name, f in running.items()}
    importance = {name: f / largest for name, f in running.items()}
    anchor = {name: p.detach().clone() for name, p in w.items()}
    for batch in AFTER:
        report = learner.observe(batch)
        cross_entropy = F.cross_entropy(logits(w, batch.inputs), batch.labels)
        g = gradient(cross_entropy, w)
        running = {name: 0.5 * running[name] + 0.5 * g[name] ** 2 for name in g}
        held = sum((importance[name] * (w[name] - anchor[name]) ** 2).sum() for name in w)
        loss = F.cross_entropy(logits(w, batch.inputs), batch.labels) + 10.0 / 2 * held
        torch.testing.assert_close(report.loss, loss.detach())
        w = {name: p.requires_grad_() for name, p in after_step(loss, w).items()}
    assert_weights(learner, w)
    for name, f in running.items():
        torch.testing.assert_close(learner.running[name], f)


def test_ewc_never_pulls_beyond_the_anchor():
    learner, w = at_the_border(EWC, weight=1e6, decay=0.0)
    with torch.no_grad():
        learner.model.backbone[1].weight.add_(1.0)
    learner.task, learner.old = 1, 2
    learner.begin_task()
    learner.anchor = {name: p.detach() for name, p in w.items()}
    learner.observe(AFTER[0])
    weight, held = learner.model.backbone[1].weight.detach(), learner.F["backbone.1.weight"] * 1e6 >= 1 / LR
    assert held.any()
    torch.testing.assert_close(weight[held], w["backbone.1.weight"].detach()[held], atol=0.2, rtol=0)


def test_separated_softmax_parts_the_tasks_classes():
    learner, w = at_the_border(ER, loss="separated")
    learner.observe(AFTER[0])
    loss_old = F.cross_entropy(logits(w, BEFORE.inputs)[:, :2], BEFORE.labels, reduction="sum")
    loss_new = F.cross_entropy(logits(w, AFTER[0].inputs)[:, 2:], AFTER[0].labels - 2, reduction="sum")
    assert_weights(learner, after_step((loss_old + loss_new) / 7, w))
    with pytest.raises(SettingError, match="loss 'separated' needs a stream with task borders"):
        learner_of(ER, loss="separated").observe(batch_of([0, 1]))


def test_a_task_that_comes_back_is_a_border_too():
    learner = learner_of(LwF)
    for task, labels in ((0, [0, 1]), (1, [2, 3]), (0, [0, 1])):
        learner.observe(batch_of(labels, task=task, seed=task))
    assert (learner.task, learner.old) == (0, 4)  # all four were known when it came back
    assert learner.past is not None


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (LwF, {"temperature": 0.0}, "weight is 1.0 and temperature 0.0; expected 0 or more, and above 0"),
        (EWC, {"decay": 1.0}, "weight is 100.0 and decay 1.0; expected 0 or more, and 0 up to, not including, 1"),
        (ICaRL, {"classifier": "linear"}, "iCaRL predicts by class means: set classifier to 'ncm'"),
        (LwF, {"iterations": 3}, "LwF does not combine with iterations; it allows augment"),
    ],
)
def test_bad_settings_get_one_line(method, settings, message):
    with pytest.raises(SettingError, match=message):
        learner_of(method, **settings)


def test_ewc_holds_only_what_its_optimiser_moves():
    model = linear_model()
    learner = EWC(model, torch.optim.SGD(model.head.parameters(), lr=LR), memory=20)
    before = model.backbone[1].weight.detach().clone()
    for batch in (BEFORE, *AFTER):
        learner.observe(batch)
    assert torch.equal(model.backbone[1].weight, before)
    assert set(learner.F) == {"head.weight", "head.bias"}
