"""The command as a whole: its list of verbs, usage errors, interruption, closed pipes."""

import signal
import subprocess
import sys

import pytest

from everlearn.cli import main
from everlearn.errors import RunError


def test_the_list_of_verbs_needs_no_torch():
    words = "import sys, everlearn.cli.main as m\nsys.argv[1:] = ['--help']\ntry: m.run()\nexcept SystemExit: pass\n"
    found = subprocess.run(
        [sys.executable, "-c", words + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert found.stdout.endswith("False\n"), found
    assert all(name in found.stdout for name in main.VERBS)


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_can_be_loaded_and_explains_itself(verb):
    command = main.loaded(verb)
    assert command.name == verb and command.help
    line = main.VERBS[verb][1]
    assert line[0].isupper() and line.endswith(".") and len(line) <= 80


def test_without_a_word_the_verbs_are_listed(everlearn):
    code, out, err = everlearn()
    assert (code, err) == (0, "") and "discover" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lern"], "no such command 'lern'; did you mean 'learn'"),
        (["bench"], "missing command; see everlearn bench --help"),
        (["predict"], "missing argument 'run'; see everlearn predict --help"),
        (["learn", "x", "--sed", "3"], "no such option: --sed"),
        (["learn", "x", "--seed", "soon"], "'--seed'"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(everlearn, words, said):
    assert said in everlearn.refused(*words)


def test_an_interruption_is_one_line(everlearn, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "loaded", interrupted)  # while the verb is imported
    code, out, err = everlearn("methods")
    assert (code, out) == (130, "")
    assert err.strip() == "everlearn: interrupted; a run keeps what it had learned up to its last checkpoint"


def test_whoever_stops_reading_gets_no_error():
    words = f"{sys.executable} -m everlearn methods er --json | true; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert found.stdout.strip() in (str(128 + signal.SIGPIPE), "0") and found.stderr == ""


def test_a_closed_output_is_no_fault():
    words = f"{sys.executable} -m everlearn methods er --json >&-"
    found = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "rank", "world", "told"),
    [
        (RunError("no run there"), 0, 2, "everlearn: no run there\n"),
        (RunError("no run there"), 1, 2, ""),  # process 0 has told it
        (RunError("no run there"), 1, 1, "everlearn: no run there\n"),  # there is no other
        (
            ValueError("lost"),
            1,
            2,
            "everlearn, process 1: unexpected ValueError: lost; set EVERLEARN_DEBUG=1 to see where\n",
        ),
    ],
)
def test_a_refusal_is_told_once_and_a_fault_by_whom_it_befalls(everlearn, monkeypatch, error, rank, world, told):
    def refuse(name):
        raise error

    monkeypatch.setattr(main, "loaded", refuse)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.delenv("EVERLEARN_DEBUG", raising=False)
    code, _, err = everlearn("methods")
    assert (code, err) == (1 if isinstance(error, ValueError) else 2, told)


def test_a_fault_of_the_program_names_the_way_to_its_place(everlearn, monkeypatch):
    def broken(name):
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr(main, "loaded", broken)
    monkeypatch.delenv("EVERLEARN_DEBUG", raising=False)
    code, _, err = everlearn("methods")
    assert (code, err.count("\n")) == (1, 1) and "unexpected ZeroDivisionError: by nought; set EVERLEARN_DEBUG=1" in err


def test_results_go_to_standard_output_and_nothing_else_does(everlearn, digits_run, digit_files):
    code, out, err = everlearn("predict", digits_run, digit_files[0])
    assert (code, err) == (0, "") and digit_files[0].name in out
    code, out, err = everlearn("evaluate", digits_run, "builtin:digits")
    assert code == 0 and "accuracy" in out and "accuracy" not in err
