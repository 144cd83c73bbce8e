"""Insertion and deletion over words against a count by hand."""

import math

import pytest
import torch
from torch import nn

from everlearn.errors import SettingError
from everlearn.metrics.word_faithfulness import measure_words


class Sum(nn.Module):
    """Confidence: the weighted sum of the tokens that are there."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.tensor(weights)

    def forward(self, x):
        return (x[:, 0, 0] * self.weights).sum(1, keepdim=True)


def by_hand(weights, words, order, steps):
    """Areas of both curves, word after word."""

    def psi(kept):
        return sum(w for w, word in zip(weights, words) if word < 0 or word in kept)

    W, areas = len(order), []
    for shown in (True, False):
        curve = []
        for step in range(steps + 1):
            half = W * step / steps
            first = set(order[: math.floor(half) if half <= W / 2 else math.ceil(half)])
            curve.append(psi(first if shown else set(order) - first))
        areas.append((sum(curve) - (curve[0] + curve[-1]) / 2) / steps)
    return areas


@pytest.mark.parametrize("steps", [1, 2, 4, 99])
def test_areas_are_those_counted_by_hand(steps):
    weights, words = [0.5, 0.1, 0.2, 0.05, 0.4, 0.0], [-1, 0, 1, 1, 2, 3]
    values = torch.tensor([0.1, 0.3, 0.3, 0.9])
    found = measure_words(
        Sum(weights), torch.ones(1, 1, 1, 6), values, torch.tensor(words), torch.tensor([0]), steps=steps, kind="none"
    )
    insertion, deletion = by_hand(weights, words, [3, 1, 2, 0], min(steps, 4))
    assert (found.insertion, found.deletion) == pytest.approx((insertion, deletion))
    assert len(set(found.random_insertions)) > 1 or steps == 1
    assert found.random_insertions[::2] == pytest.approx(found.random_deletions[1::2])  # the reverse of each order


def test_verdicts_and_bounds():
    x, words, target = torch.ones(1, 1, 1, 12), torch.arange(12), torch.tensor([0])
    model = Sum([(12 - i) / 78 for i in range(12)])
    good, bad = torch.arange(12.0).flip(0), torch.arange(12.0)
    said = [measure_words(model, x, values, words, target, kind="none").verdict for values in (good, bad)]
    assert said == ["supported", "not supported"]
    assert measure_words(model, x, torch.ones(12), words, target, kind="none").verdict == "not supported"
    with pytest.raises(SettingError, match="random is 1"):
        measure_words(model, x, good, words, target, random=1)
