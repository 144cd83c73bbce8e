"""Numbers as laboratories write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.discovery import numbers


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", "eV", "mS/cm", "%", "°C"]))
def test_a_number_and_its_unit_come_back(value, unit):
    assert numbers.split(f"{value!r} {unit}") == (value, unit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<1E-10", "'<1E-10' is a bound, expected a number"),
        (">= 3", "is a bound"),
        ("~3", "is an estimate"),
        ("warm", "'warm' is not a number"),
        ("1e999", "not finite"),
        ("1,5", "is not a number"),
    ],
)
def test_what_is_no_number_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        numbers.split(text)


def test_a_number_in_another_unit_is_named():
    with pytest.raises(ValueError, match="'3 S/m' is in S/m, expected mS/cm as most rows"):
        numbers.number("3 S/m", numbers.common_unit(["1 mS/cm", "2 mS/cm", "3 S/m"]))
    with pytest.raises(ValueError, match="without a unit, expected eV"):
        numbers.number("3", "eV")
    with pytest.raises(ValueError, match="in meV, expected a number without a unit"):
        numbers.number("3 meV", "")
