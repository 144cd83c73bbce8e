"""One step of each replay method against its equations, written out for a linear network."""

import check_learner as check
import pytest
import torch
from linear_oracle import LR, after_step, assert_weights, batch_of, gradient, learner_of, logits, weights
from torch.nn import functional as F

from everlearn.errors import SettingError
from everlearn.learners import AGEM, DER, ER, ERACE, GSS, MIR, MKD, SCR
from everlearn.learners.agem import project
from everlearn.learners.beside import arrivals
from everlearn.memory import Memory

FIRST, SECOND = batch_of([0, 1, 2, 3, 0, 2]), batch_of([3, 2, 2], seed=1, first=6)


def begun(method, **settings):
    """A learner that has seen the first batch, all of which is in memory, and its weights."""
    learner = learner_of(method, **settings)
    learner.observe(FIRST)
    return learner, weights(learner)


def test_er_is_one_step_on_both():
    learner, w = begun(ER)
    report = learner.observe(SECOND)
    both, y = torch.cat([FIRST.inputs, SECOND.inputs]), torch.cat([FIRST.labels, SECOND.labels])
    loss = F.cross_entropy(logits(w, both), y)
    assert_weights(learner, after_step(loss, w))
    torch.testing.assert_close(report.loss, loss.detach())


def test_er_with_two_iterations_takes_two_steps():
    learner, w = begun(ER, iterations=2)
    w = weights(learner)
    learner.observe(SECOND)
    both, y = torch.cat([FIRST.inputs, SECOND.inputs]), torch.cat([FIRST.labels, SECOND.labels])
    for _ in range(2):
        w = after_step(F.cross_entropy(logits(w, both), y), w)
        w = {name: p.requires_grad_() for name, p in w.items()}
    assert_weights(learner, w)
    assert learner.step == 2 and learner.samples_seen == 9


def test_er_ace_keeps_the_incoming_loss_to_its_own_classes():
    learner, w = begun(ERACE)
    learner.observe(SECOND)
    own = logits(w, SECOND.inputs)[:, 2:]  # classes 2 and 3
    loss = F.cross_entropy(own, SECOND.labels - 2) + F.cross_entropy(logits(w, FIRST.inputs), FIRST.labels)
    assert_weights(learner, after_step(loss, w))


def test_der_stores_the_logits_of_the_step_and_replays_them():
    learner = learner_of(DER, alpha=0.3, beta=0.7)
    learner.receive(FIRST)  # the head grows; observing does not grow it again
    z = logits(weights(learner), FIRST.inputs).detach()
    learner.observe(FIRST)
    torch.testing.assert_close(learner.z[:6], z)
    third = batch_of([4, 4, 0], seed=2, first=20)  # class 4 has no stored logits
    learner.receive(third)
    w = weights(learner)
    learner.observe(third)
    old = logits(w, FIRST.inputs)
    loss = (
        F.cross_entropy(logits(w, third.inputs), third.labels)
        + 0.3 * F.mse_loss(old[:, :4], z)
        + 0.7 * F.cross_entropy(old, FIRST.labels)
    )
    assert_weights(learner, after_step(loss, w))
    assert learner.known[:9].tolist() == [4] * 6 + [5] * 3


def test_der_keeps_logits_with_their_samples_when_memory_turns_over():
    learner = learner_of(DER, memory=4, replay=2)
    kept = {}
    for i in range(12):
        batch = batch_of([i % 3, (i + 1) % 3, 2], seed=i, first=3 * i)
        learner.receive(batch)
        z = logits(weights(learner), batch.inputs).detach()
        kept |= {int(id_): row for id_, row in zip(batch.ids, z)}
        learner.observe(batch)
        for slot in range(learner.memory.size):
            row = kept[int(learner.memory.ids[slot])]
            torch.testing.assert_close(learner.z[slot, : len(row)], row)
            assert learner.known[slot] == len(row)


def test_arrivals_are_those_of_this_step():
    memory = Memory(3)
    pictures = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    memory.append(pictures, torch.tensor([0, 0]), torch.tensor([4, 9]), step=1)
    memory.write(torch.tensor([1]), pictures[:1], torch.tensor([0]), torch.tensor([4]), 2, classes=1)
    new, position = arrivals(memory, torch.tensor([8, 4]), step=2)
    assert new.tolist() == [False, True] and position[1] == 1


def test_mir_replays_what_the_step_would_harm_most():
    learner, w = begun(MIR, replay=2, candidates=6)
    virtual = after_step(F.cross_entropy(logits(w, SECOND.inputs), SECOND.labels), w)
    harm = F.cross_entropy(logits(virtual, FIRST.inputs), FIRST.labels, reduction="none")
    harm = harm - F.cross_entropy(logits(w, FIRST.inputs), FIRST.labels, reduction="none")
    x, y = learner.receive(SECOND)
    slots = learner.retrieve(x, y)
    assert sorted(learner.memory.ids[slots].tolist()) == sorted(harm.topk(2).indices.tolist())
    assert_weights(learner, w, atol=0)  # looking ahead changes nothing


def test_mir_looks_ahead_without_batchnorms_statistics():
    from everlearn.models import build_model

    model = build_model("slim_resnet18", channels=1, size=8)
    learner = MIR(model, replay=2, candidates=6, memory=10, precision="float32")
    learner.observe(FIRST)
    before = {name: b.clone() for name, b in model.named_buffers()}
    learner.retrieve(SECOND.inputs, SECOND.labels)
    for name, b in model.named_buffers():
        assert torch.equal(b, before[name]), name


def test_mir_sees_no_harm_in_a_step_that_moves_nothing():
    learner = MIR(check.small_model(), replay=2, candidates=6, memory=10, precision="float32")  # with dropout
    learner.observe(FIRST)
    m = learner.recall(torch.arange(6))
    assert (learner._interference({}, m) == 0).all()
    moved = {name: p.detach() * 1.1 for name, p in learner.model.named_parameters()}
    assert (learner._interference(moved, m) != 0).any()


def test_agem_holds_only_what_its_optimiser_moves():
    found = []
    for frozen in (True, False):  # by its own word, or since the optimiser does not hold it
        model = check.small_model()
        model.backbone.requires_grad_(not frozen)
        learner = AGEM(model, torch.optim.SGD(model.head.parameters(), lr=LR), memory=20, precision="float32")
        check.run(learner, check.stream())
        found.append(model.head.weight.detach())
    assert torch.equal(*found)


def test_agem_frees_the_gradient_of_what_harms_memory():
    learner, _ = begun(AGEM)
    for _ in range(60):  # what is remembered is known well
        learner.train_step(FIRST.inputs, FIRST.labels)
    w = weights(learner)
    flipped = batch_of([1, 0, 3, 2, 2, 0], seed=0, first=6)  # the first batch's pictures, called something else
    learner.observe(flipped)
    g = gradient(F.cross_entropy(logits(w, flipped.inputs), flipped.labels), w)
    g_ref = gradient(F.cross_entropy(logits(w, FIRST.inputs), FIRST.labels), w)
    flat, flat_ref = (torch.cat([t.flatten() for t in part.values()]) for part in (g, g_ref))
    dot = flat @ flat_ref
    assert dot < 0, "the test needs gradients that disagree"
    share = dot / (flat_ref @ flat_ref)
    assert_weights(learner, {name: w[name].detach() - LR * (g[name] - share * g_ref[name]) for name in w})


def test_agem_with_mkd_distils_the_incoming_batch_alone():
    learner, w = begun(AGEM, mkd=2.0)
    learner.train_step(FIRST.inputs, FIRST.labels)
    w = weights(learner)
    t = {name: p.detach().clone() for name, p in learner.teacher.model.named_parameters()}
    flipped = batch_of([1, 0, 3, 2, 2, 0], seed=0, first=6)
    report = learner.observe(flipped)
    log_s, log_t = ((logits(v, flipped.inputs) / 4).log_softmax(1) for v in (w, t))
    kl = (log_t.exp() * (log_t - log_s)).sum(1).mean()
    assert kl > 0, "the test needs a teacher that has stayed behind"
    loss = F.cross_entropy(logits(w, flipped.inputs), flipped.labels) + 2.0 * kl
    torch.testing.assert_close(report.loss, loss.detach())
    g, g_ref = gradient(loss, w), gradient(F.cross_entropy(logits(w, FIRST.inputs), FIRST.labels), w)
    expected = project(list(g.values()), list(g_ref.values()))
    assert_weights(learner, {name: w[name].detach() - LR * step for name, step in zip(w, expected)})


def test_projection_leaves_agreeing_gradients_alone():
    g, g_ref = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)], [torch.tensor([1.0, 0.0]), torch.tensor(1.0)]
    assert all(torch.equal(a, b) for a, b in zip(project(g, g_ref), g))
    assert all(torch.isfinite(t).all() for t in project(g, [torch.zeros(2), torch.tensor(0.0)]))


def test_gss_takes_each_samples_own_gradient():
    learner, w = begun(GSS)
    each = []
    for i in range(6):
        one = slice(i, i + 1)
        g = gradient(F.cross_entropy(logits(w, FIRST.inputs[one]), FIRST.labels[one]), w)
        each.append(torch.cat([t.flatten() for t in g.values()]))
    G = F.normalize(torch.stack(each), dim=1)
    torch.testing.assert_close(learner.gradient_cosines(FIRST.inputs, FIRST.labels), G @ G.T)


def test_gss_never_takes_in_what_points_the_same_way():
    learner = learner_of(GSS, memory=6, strength=6)
    learner.observe(FIRST)
    learner.memory.ids[:6] = torch.arange(100, 106)
    learner.observe(FIRST)  # every sample's gradient is there already: cosine 1
    assert learner.memory.ids[:6].tolist() == list(range(100, 106))
    assert (learner.score > 0).all()


def test_gss_replaces_slots_in_proportion_to_their_scores():
    taken = torch.zeros(4)
    for seed in range(300):
        learner = learner_of(GSS, memory=4, seed=seed)
        learner.receive(FIRST)
        learner.memory.append(FIRST.inputs[:4], FIRST.labels[:4], FIRST.ids[:4], step=0)
        learner.score = torch.tensor([0.2, 0.2, 0.6, 1.0])
        learner._scores = lambda x, y: torch.zeros(len(y))  # c = 0: every challenge is won
        one = SECOND.select(torch.tensor([0]))
        learner._select(one, one.inputs, one.labels)
        taken += learner.memory.ids[:4] == 6
    assert taken.sum() == 300
    assert (taken / 300 - torch.tensor([0.1, 0.1, 0.3, 0.5])).abs().max() < 0.12  # 4 deviations


def test_scr_trains_features_but_no_head():
    learner = learner_of(SCR, replay=4)
    learner.receive(FIRST)
    before = weights(learner)
    learner.observe(FIRST)
    after = weights(learner)
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["backbone.1.weight"], after["backbone.1.weight"])
    assert learner.predict(FIRST.inputs).probabilities.shape == (6, 4)


def test_mkd_distils_from_a_slow_teacher_and_predicts_by_the_mean():
    learner, w = begun(MKD, augment=None, mkd=2.0)
    t = {name: p.detach().clone() for name, p in learner.teacher.model.named_parameters()}
    report = learner.observe(SECOND)
    both, y = torch.cat([FIRST.inputs, SECOND.inputs]), torch.cat([FIRST.labels, SECOND.labels])
    log_s, log_t = (logits(w, both) / 4).log_softmax(1), (logits(t, both) / 4).log_softmax(1)
    loss = F.cross_entropy(logits(w, both), y) + 2.0 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    s = after_step(loss, w)
    torch.testing.assert_close(report.loss, loss.detach())
    assert_weights(learner, s)
    t = {name: (t[name] + s[name]) / 2 for name in t}  # the second step: still the plain mean
    for name, p in learner.teacher.model.named_parameters():
        torch.testing.assert_close(p, t[name])
    mean = {name: (t[name] + s[name]) / 2 for name in t}
    torch.testing.assert_close(learner.predict(both).probabilities, logits(mean, both).softmax(1))


def test_mkd_sees_two_views():
    learner, _ = begun(ER, augment="flip", mkd=3.0)
    taught, own = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.5, 0.2]])
    log_s = (own / 4).log_softmax(1)
    kl = [(p.softmax(0) * (p.log_softmax(0) - log_s[0])).sum() for p in taught / 4]
    torch.testing.assert_close(learner.teacher.loss(taught, own), 3.0 / 2 * (kl[0] + kl[1]))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (DER, {"alpha": -1.0}, "alpha is -1.0 and beta 0.5; expected 0 or more for both"),
        (MIR, {"candidates": 3, "replay": 5}, "candidates is 3; expected at least the 5 samples that are replayed"),
        (GSS, {"strength": 0}, "strength is 0; expected 1 or more samples to compare with"),
        (SCR, {"classifier": "linear"}, "SCR trains no linear head: set classifier to 'ncm'"),
        (SCR, {"temperature": 0.0}, "temperature is 0.0 and projection 128; expected both above 0"),
    ],
)
def test_bad_settings_get_one_line(method, settings, message):
    with pytest.raises(SettingError, match=message):
        learner_of(method, **settings)
