"""``everlearn methods`` lists what every method really takes."""

import inspect

import pytest

from everlearn.cli.methods import about
from everlearn.learners import METHODS


def test_all_are_listed_and_told_of(everlearn):
    found = everlearn.json("methods")
    assert list(found) == list(METHODS)
    for name, known in found.items():
        assert known["paper"] and known["summary"], name
        for setting in known["settings"]:
            assert any(setting in inspect.signature(owner.__init__).parameters for owner in METHODS[name].__mro__)
        assert set(known["options"]) <= METHODS[name].takes
    assert found["gdumb"]["alone"] and not found["er"]["alone"] and found["lwf"]["needs_tasks"]


def test_one_is_told_in_full(everlearn):
    code, out, _ = everlearn("methods", "er_ace")
    told = " ".join(out.split())
    assert code == 0
    assert "2104.05025" in told and "iterations" in told and "needs no task borders" in told
    assert "did you mean 'er_ace'?" in everlearn.refused("methods", "er-ace")


@pytest.mark.parametrize("name", METHODS)
def test_the_options_listed_have_words(name):
    from everlearn.cli.methods import _of_option

    assert all(_of_option(option) for option in about(METHODS[name])["options"])
