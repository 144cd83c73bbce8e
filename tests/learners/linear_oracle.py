"""A linear network written out, as an oracle: one hidden layer of features, one head, no BatchNorm."""

import torch
from torch import nn

from everlearn.data import Batch
from everlearn.models import Model

LR = 0.05


def linear_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), feature_dim=5)


def learner_of(method, seed=0, **settings):
    model = linear_model(seed)
    settings = {"memory": 50, "replay": 50, "seed": seed, "precision": "float32", **settings}
    return method(model, torch.optim.SGD(model.parameters(), lr=LR), **settings)


def batch_of(labels, task=None, seed=0, first=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(256, (len(labels), 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Batch(inputs, torch.tensor(labels), torch.arange(first, first + len(labels)), task)


def weights(learner):
    """The model's weights as leaves of their own."""
    return {name: p.detach().clone().requires_grad_() for name, p in learner.model.named_parameters()}


def features(w, inputs):
    return inputs.flatten(1).float() / 255 @ w["backbone.1.weight"].T + w["backbone.1.bias"]


def logits(w, inputs):
    return features(w, inputs) @ w["head.weight"].T + w["head.bias"]


def gradient(loss, w):
    return dict(zip(w, torch.autograd.grad(loss, list(w.values()), allow_unused=True, materialize_grads=True)))


def after_step(loss, w):
    """Weights after one step of gradient descent on a loss."""
    g = gradient(loss, w)
    return {name: w[name].detach() - LR * g[name] for name in w}


def assert_weights(learner, expected, atol=1e-5):
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name].detach(), atol=atol, rtol=1e-4, msg=name)
