"""What methods can be set to, by their own declarations."""

import pytest

from everlearn.errors import SettingError
from everlearn.learners import ASER, ER, METHODS
from everlearn.learners.settings import check_settings, read_settings, settings_of, shared_settings

ALL = tuple(METHODS.values())


def test_a_name_has_one_type_in_all_methods():
    kinds = {name: {each.kind} for name, each in shared_settings().items()}
    for method in ALL:
        for name, each in settings_of(method).items():
            kinds.setdefault(name, set()).add(each.kind)
            if each.default is not None:
                check_settings(method, {name: each.default})
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


@pytest.mark.parametrize("text", ["no", "False", "off", "0"])
def test_truth_in_words(text):
    assert read_settings({"shapley_update": text}, ALL) == {"shapley_update": False}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("shapley_update", "perhaps", "true or false"),
        ("mix", "nan", "a finite number"),
        ("mix", "inf", "a finite number"),
        ("mix", "much", "a finite number"),
        ("k", "2.5", "a whole number"),
        ("memory", "3", "expected --memory 3"),
        ("replay", "3", "expected --replay 3"),
    ],
)
def test_texts_that_are_no_value(name, text, expected):
    with pytest.raises(SettingError, match=f"--set {name}={text}: .*{expected}"):
        read_settings({name: text}, ALL)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (ASER, {"shapley_update": "no"}, "shapley_update is 'no'; expected true or false"),
        (ASER, {"k": True}, "k is True; expected a whole number"),
        (ASER, {"mix": float("inf")}, "mix is inf; expected a finite number"),
        (ER, {"self": "1"}, "ER has no setting 'self'; expected one of .*iterations"),
        (ER, {"device": "cuda"}, "ER has no setting 'device'"),
        (ER, {"group": "1"}, "ER has no setting 'group'"),
        (ER, {"memory": 3}, "ER has no setting 'memory'"),
        (ER, {"k": 3}, "ER has no setting 'k'"),
    ],
)
def test_values_that_do_not_fit(method, settings, message):
    with pytest.raises(SettingError, match=message):
        check_settings(method, settings)


def test_a_whole_number_will_do_where_a_number_is_expected():
    check_settings(ASER, {"mix": 2})
