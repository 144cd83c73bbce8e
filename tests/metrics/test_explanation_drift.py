"""Explanation drift in closed form, on maps made by hand."""

import math

import pytest
import torch

from everlearn.errors import SettingError
from everlearn.metrics.explanation_drift import explanation_drift, map_correlation, map_distance


def maps(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 1, 2, 2)


def test_distance_is_the_share_of_energy_that_moved():
    before = maps([4, 0, 0, 0], [4, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, -5, 1, 0])
    after = maps([8, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0])
    assert map_distance(before, after).tolist() == [0.0, 1.0, 0.5, 1.0, 0.0, 0.0]
    assert torch.equal(map_distance(before, after), map_distance(after, before))


def test_correlation_is_pearsons():
    before = maps([0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 0, 0], [5, 5, 5, 5])
    after = maps([1, 3, 5, 7], [3, 2, 1, 0], [0, 1, 0, 0], [0, 1, 2, 3])
    found = map_correlation(before, after)
    torch.testing.assert_close(found[:3], torch.tensor([1.0, -1.0, -1 / 3]))
    assert math.isnan(found[3])


def test_drift_is_a_mean_over_tasks_before_the_last():
    still, moved = maps([1, 0, 0, 0], [1, 0, 0, 0]), maps([0, 0, 0, 1], [1, 0, 0, 0])
    flat = maps([1, 1, 1, 1])
    found = explanation_drift([still, flat, still], [moved, flat, moved])
    assert found.distance == 0.25  # (½ + 0) / 2
    assert found.correlation == pytest.approx((1 - 1 / 3) / 2)  # the flat map has none
    assert explanation_drift([still, moved], [still, still]).distance == 0.0


def test_what_does_not_belong_together_gets_one_line():
    with pytest.raises(SettingError, match="maps are of 1 and 1 tasks; expected two tasks or more"):
        explanation_drift([maps([1, 0, 0, 0])], [maps([1, 0, 0, 0])])
    with pytest.raises(SettingError, match=r"maps before and after are \(1, 1, 2, 2\) and \(2, 1, 2, 2\)"):
        map_distance(maps([1, 0, 0, 0]), maps([1, 0, 0, 0], [1, 0, 0, 0]))
