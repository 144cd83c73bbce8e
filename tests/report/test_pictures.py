"""Charts show what they are given, whatever it is."""

import pytest

from everlearn.report.pictures import memory_chart


@pytest.mark.parametrize("name", ["price_$ or tip_$", r"\$5 $x$", "$", "a_b^c", r"$\frac$"])
def test_a_class_may_be_called_anything(name):
    chart = memory_chart([name, "other"], [1, 2])
    assert f">{name}</text>" in chart and chart.startswith("<svg")
