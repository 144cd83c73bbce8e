"""Each measure against its closed form on a hand-made matrix."""

import pytest

from everlearn.errors import SettingError
from everlearn.metrics.continual import (
    anytime_accuracy,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    measures,
    worst_case_accuracy,
)

MATRIX = [[0.8, None, None], [0.9, 0.6, None], [0.3, 0.5, 0.7]]


def test_closed_forms():
    assert average_accuracy(MATRIX) == pytest.approx((0.3 + 0.5 + 0.7) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.3) + (0.6 - 0.5)) / 2)  # over T−1, not T
    assert anytime_accuracy(MATRIX) == pytest.approx((0.8 + 0.75 + 0.5) / 3)
    assert backward_transfer(MATRIX) == pytest.approx(((0.3 - 0.8) + (0.5 - 0.6)) / 2)
    assert worst_case_accuracy(MATRIX) == pytest.approx((0.3 + 0.5 + 0.7) / 3)


def test_the_worst_case_is_the_least_at_any_later_time():
    matrix = [[0.9, None, None], [0.1, 0.8, None], [0.6, 0.5, 0.7]]
    assert worst_case_accuracy(matrix) == pytest.approx(1 / 3 * 0.7 + 2 / 3 * (0.1 + 0.5) / 2)
    assert worst_case_accuracy([[0.4]]) == 0.4


def test_forward_transfer_needs_tasks_measured_before_they_are_learned():
    full = [[0.8, 0.3, 0.2], [0.9, 0.6, 0.4], [0.3, 0.5, 0.7]]
    assert forward_transfer(full, [0.5, 0.1, 0.25]) == pytest.approx(((0.3 - 0.1) + (0.4 - 0.25)) / 2)
    assert forward_transfer([[0.5]]) == backward_transfer([[0.5]]) == 0.0
    with pytest.raises(SettingError, match="no measured value"):
        forward_transfer(MATRIX)
    with pytest.raises(SettingError, match="2 baselines for 3 tasks; expected one for each, or one for all"):
        forward_transfer(full, [0.1, 0.2])
    with pytest.raises(SettingError, match="the last task was not measured"):
        worst_case_accuracy([[0.5, None], [0.5, None]])


def test_all_by_name():
    found = measures(MATRIX)
    assert found == {
        "average_accuracy": average_accuracy(MATRIX), "anytime_accuracy": anytime_accuracy(MATRIX),
        "forgetting": forgetting(MATRIX), "backward_transfer": backward_transfer(MATRIX),
        "worst_case_accuracy": worst_case_accuracy(MATRIX), "forward_transfer": None,
    }  # fmt: skip
    full = [[0.8, 0.3, 0.2], [0.9, 0.6, 0.4], [0.3, 0.5, 0.7]]
    assert measures(full, 0.1)["forward_transfer"] == pytest.approx((0.2 + 0.3) / 2)
    assert set(measures([]).values()) == {None}


def test_negative_forgetting_is_kept():
    assert forgetting([[0.5, None], [0.7, 0.9]]) == pytest.approx(-0.2)


def test_one_task_forgets_nothing():
    assert forgetting([[0.5]]) == 0.0


def test_bad_matrices_get_one_line():
    with pytest.raises(SettingError, match="expected one row or more"):
        average_accuracy([])
    with pytest.raises(SettingError, match="all alike"):
        forgetting([[0.1], [0.2, 0.3]])
    with pytest.raises(SettingError, match="no measured value"):
        average_accuracy([[None]])
