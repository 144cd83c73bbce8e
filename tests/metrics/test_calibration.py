"""Calibration error against closed forms and a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.metrics.calibration import calibration_error


def two(confidences):
    """Two classes, the first predicted with these confidences."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p, 1 - p], 1)


def test_closed_form():
    # two bins of (0, 1]: both samples of 0.9 and 0.7 are in the upper one; one is right
    assert calibration_error(two([0.9, 0.7]), torch.tensor([0, 1]), bins=2) == pytest.approx(abs(0.5 - 0.8))
    # ten bins: 0.95 right, 0.75 wrong, 0.72 right → (1·|1−0.95| + 2·|0.5−0.735|) / 3
    found = calibration_error(two([0.95, 0.75, 0.72]), torch.tensor([0, 1, 0]), bins=10)
    assert found == pytest.approx((0.05 + 2 * 0.235) / 3)


def test_certain_and_right_or_wrong():
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert calibration_error(certain, torch.tensor([0, 1])) == 0
    assert calibration_error(certain, torch.tensor([1, 0])) == 1
    assert calibration_error(certain, torch.tensor([-1, -1])) == 1


@given(
    confidences=st.lists(st.floats(0.5, 1), min_size=1, max_size=30),
    bins=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_against_a_loop(confidences, bins, data):
    confidences = [c for c in confidences if abs(c * bins - round(c * bins)) > 1e-6] or [0.5001]
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(confidences), max_size=len(confidences)))
    error = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidences) if b / bins < c <= (b + 1) / bins]
        error += abs(sum((targets[i] == 0) - confidences[i] for i in inside))
    found = calibration_error(two(confidences), torch.tensor(targets), bins)
    assert found == pytest.approx(error / len(confidences), abs=1e-9)


def test_an_edge_belongs_to_the_bin_below():
    # 0.5 lies on the edge of two bins: alone it is in (0, 0.5], so the two do not average out
    found = calibration_error(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 1]), bins=2)
    assert found == pytest.approx((0.5 + 0.9) / 2)


def test_bad_input_gets_one_line():
    with pytest.raises(SettingError, match="bins is 0; expected 1 or more"):
        calibration_error(two([0.9]), torch.tensor([0]), bins=0)
    with pytest.raises(SettingError, match=r"\(2, 2\) probabilities for 1 targets"):
        calibration_error(two([0.9, 0.8]), torch.tensor([0]))
    with pytest.raises(SettingError, match=r"sums to 1\.400 or has one below 0; expected distributions"):
        calibration_error(torch.tensor([[0.9, 0.5]]), torch.tensor([0]))
