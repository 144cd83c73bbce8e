"""Charts show what they are given, whatever it is."""

import warnings

import pytest

from everlearn.report.pictures import memory_chart


@pytest.mark.parametrize("name", ["price_$ or tip_$", r"\$5 $x$", "$", "a_b^c", r"$\frac$"])
def test_a_class_may_be_called_anything(name):
    chart = memory_chart([name, "other"], [1, 2])
    assert f">{name}</text>" in chart and chart.startswith("<svg")


def test_letters_that_a_font_has_not_stay_letters_and_nobody_is_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = memory_chart(["고양이", "犬", "cat"], [1, 2, 3])
    assert all(name in chart for name in ("고양이", "犬", "cat"))
