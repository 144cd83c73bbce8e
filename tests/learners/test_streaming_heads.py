"""Heads from running sums against the same sums taken at once."""

import numpy as np
import pytest
import torch
from linear_oracle import batch_of, features, learner_of, weights

from everlearn.errors import SettingError
from everlearn.learners import NCM, SLDA, RandomFeatures

METHODS = [NCM, SLDA, RandomFeatures]
LABELS = np.random.default_rng(0).integers(0, 4, 60).tolist()
WHOLE = batch_of(LABELS)


def learned(method, sizes, order=None, **settings):
    learner = learner_of(method, **settings)
    order, start = torch.arange(60) if order is None else order, 0
    for n in sizes:
        learner.observe(WHOLE.select(order[start : start + n]))
        start += n
    return learner


def data(learner, inputs="backbone"):
    """Features ``[60, d]`` and class indices as numpy, float64."""
    x = WHOLE.inputs.flatten(1).float() / 255 if inputs == "raw" else features(weights(learner), WHOLE.inputs).detach()
    return x.double().numpy(), np.array([learner.classes.codes.index(code) for code in LABELS])


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_order_do_not_matter(method):
    settings = {"width": 12, "ridge": 0.01} if method is RandomFeatures else {}
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    one, other = learned(method, [60], **settings), learned(method, [1, 7, 30, 22], order, **settings)
    a, b = one.predict(WHOLE.inputs), other.predict(WHOLE.inputs)
    columns = [b.codes.index(code) for code in a.codes]
    torch.testing.assert_close(a.probabilities, b.probabilities[:, columns], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("inputs", ["backbone", "raw"])
def test_slda_is_linear_discriminant_analysis(inputs):
    learner = learned(SLDA, [20, 25, 15], shrinkage=0.01, inputs=inputs)
    x, y = data(learner, inputs)
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    cov = (x - means[y]).T @ (x - means[y]) / len(x)
    regular = 0.99 * cov + 0.01 * np.diag(cov).mean() * np.eye(x.shape[1])
    Λ = np.linalg.inv(regular)
    expected = x @ Λ @ means.T - 0.5 * np.diag(means @ Λ @ means.T)
    with learner.evaluating():
        found = learner.logits(WHOLE.inputs).numpy()
    # float32 inputs to an ill-conditioned problem: differences between classes decide
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=0.02 * np.abs(expected).max())


def test_slda_agrees_with_scikit_learn():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    learner = learned(SLDA, [30, 30], shrinkage=1e-6)
    x, y = data(learner)
    peer = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4).fit(x, y)
    agree = learner.predict(WHOLE.inputs).probabilities.argmax(1).numpy() == peer.predict(x)
    assert agree.mean() >= 58 / 60


def test_ncm_is_the_nearest_mean_of_all_samples():
    learner = learned(NCM, [20, 40])
    x, y = data(learner)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = -((x[:, None] - means) ** 2).sum(2)
    with learner.evaluating():
        np.testing.assert_allclose(learner.logits(WHOLE.inputs).numpy(), expected, atol=1e-5)


def test_random_features_are_a_ridge_regression():
    learner = learned(RandomFeatures, [20, 40], width=12, ridge=0.1, temperature=1.0)
    x, y = data(learner)
    R = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy() / np.sqrt(5)
    h = np.maximum(x @ R, 0)
    G = h.T @ h
    W = np.linalg.solve(G + 0.1 * np.diag(G).mean() * np.eye(12), h.T @ np.eye(4)[y])
    with learner.evaluating():
        np.testing.assert_allclose(learner.logits(WHOLE.inputs).numpy(), h @ W, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_stays_as_it_is(method):
    learner = learner_of(method)
    before = weights(learner)
    learner.observe(WHOLE)
    for name, w in before.items():
        if name.startswith("backbone."):
            assert torch.equal(w, weights(learner)[name])


def test_gradients_reach_the_picture():
    """Explainers need them."""
    learner = learned(SLDA, [60])
    x = (WHOLE.inputs[:2].float() / 255).requires_grad_()
    learner.logits(x)[:, 0].sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (SLDA, {"shrinkage": 0.0}, "shrinkage is 0.0; expected a share above 0, up to 1"),
        (NCM, {"inputs": "pixels"}, "inputs is 'pixels'; expected 'backbone' or 'raw'"),
        (NCM, {"classifier": "ncm"}, "NCM is a classifier of its own; leave classifier at 'linear'"),
        (RandomFeatures, {"width": 0}, "width is 0, ridge 0.0001, temperature 0.1; expected a width of 1 or more"),
        (SLDA, {"augment": "flip"}, "SLDA does not combine with augment; it allows none"),
    ],
)
def test_bad_settings_get_one_line(method, settings, message):
    with pytest.raises(SettingError, match=message):
        learner_of(method, **settings)


def looks(learner, start, stop, size=2):
    """Look at batches and learn them; gives what was said."""
    said = []
    for at in range(start, stop, size):
        batch = WHOLE.select(torch.arange(at, at + size))
        said.append(learner.look(batch.inputs).probabilities if learner.classes.codes else None)
        learner.observe(batch)
    return said[1:]


@pytest.mark.parametrize("stop", [8, 26, 42, 44])
def test_looks_solve_now_and_then_and_a_resumed_learner_sees_the_same(monkeypatch, stop):
    solved = []
    own = RandomFeatures.solve
    monkeypatch.setattr(RandomFeatures, "solve", lambda self: solved.append(self.step) or own(self))
    whole, first = (learner_of(RandomFeatures, width=48) for _ in range(2))
    said = looks(whole, 0, 60)
    grown = max(LABELS.index(c) for c in range(4)) // 2 + 1  # the step behind which all classes are known
    late = [step for step in solved if step > grown]
    assert np.diff(late).tolist() == [4] * (len(late) - 1)  # 48 / (6 * 2)
    again = looks(first, 0, stop)
    first.predict(WHOLE.inputs)  # evaluation between looks changes none
    second = learner_of(RandomFeatures, width=48)
    second.load_state_dict(first.state_dict())
    batch = WHOLE.select(torch.arange(stop, stop + 2))
    again.append(second.look(batch.inputs).probabilities)
    second.observe(batch)
    again += [second.look(WHOLE.select(torch.arange(stop + 2, stop + 4)).inputs).probabilities]
    assert all(torch.equal(a, b) for a, b in zip(again, said))
    assert len(again) == stop // 2 + 1


def test_a_cheap_head_looks_with_what_it_has_learned_last():
    learner = learned(NCM, [20, 20])
    learner.look(WHOLE.inputs)
    learner.observe(WHOLE.select(torch.arange(40, 60)))
    torch.testing.assert_close(learner.look(WHOLE.inputs).probabilities, learner.predict(WHOLE.inputs).probabilities)


def test_states_from_before_looks_were_kept_load():
    learner, other = learned(SLDA, [20, 20]), learner_of(SLDA)
    learner.look(WHOLE.inputs)
    other.load_state_dict({name: t for name, t in learner.state_dict().items() if "looking" not in name})
    assert torch.equal(other.look(WHOLE.inputs).probabilities, learner.look(WHOLE.inputs).probabilities)
