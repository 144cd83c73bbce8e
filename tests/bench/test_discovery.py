"""The table of searches: counted rightly, resumable, with groups kept apart."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from everlearn.bench import discovery as bench
from everlearn.bench.discovery_peers import STRATEGIES
from everlearn.bench.discovery_splits import split
from everlearn.bench.discovery_tables import as_markdown, mean_interval, summary
from everlearn.cli.main import app
from everlearn.errors import DataError, EverlearnError, SettingError


@pytest.fixture
def table(tmp_path):
    """200 recipes of two numbers; y is largest at one place; four labs."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 2)).round(4)
    rows = [f"{a},{b},lab{i % 4},{-((a - 0.7) ** 2) - (b - 0.2) ** 2:.6f}" for i, (a, b) in enumerate(x)]
    file = tmp_path / "recipes.csv"
    file.write_text("\n".join(["a,b,lab,y", *rows, "0.1,0.2,lab1,"]))
    return file


@pytest.fixture
def problem(table, tmp_path):
    return bench.Problem(bench.PoolSet("recipes", table, "y", inputs="columns", group="lab"), 500, tmp_path / "s")


def test_counts_are_of_the_experiment_that_arrived(problem, monkeypatch):
    assert len(problem.y) == 200 and problem.best.sum() == 2 and problem.needed == 1
    assert problem.random_expected == pytest.approx(201 / 3)
    best = [int(i) for i in np.flatnonzero(problem.best)]
    seed = next(s for s in range(99) if not set(np.random.default_rng(s).choice(200, 10, replace=False)) & set(best))

    def oracle(view, known):
        worst = [int(i) for i in view.open(known) if int(i) not in best]
        return [*worst[:3], best[0], *worst[3:7]]

    monkeypatch.setitem(STRATEGIES, "oracle", oracle)
    assert bench.experiments(problem, "oracle", seed) == (14, True)
    monkeypatch.setitem(STRATEGIES, "oracle", lambda view, known: oracle(view, known)[:3])
    assert bench.experiments(problem, "oracle", seed, most=40) == (40, False)


def test_random_choice_needs_what_it_should(problem):
    counts = [bench.experiments(problem, "random", seed)[0] for seed in range(200)]
    mean, half = mean_interval(counts)
    assert abs(mean - problem.random_expected) < 2 * half


def test_a_table_goes_on_where_it_stopped(problem, tmp_path):
    file, said = tmp_path / "out" / "rows.jsonl", []
    first = bench.run_table(problem, ["random", "everlearn"], [0], file, splits=1, show=said.append)
    assert [row["kind"] for row in first] == ["split", "reasons", "search", "search"] and len(said) == 4
    with file.open("a") as out:
        out.write('{"set": "recipes", "kin')  # killed while it wrote
    said.clear()
    rows = bench.run_table(problem, ["random", "everlearn"], [0, 1], file, splits=1, show=said.append)
    assert len(said) == 2 and rows[:4] == first
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 6
    entry = summary(rows)[0]
    assert entry["strategies"]["everlearn"]["seeds"] == 2
    assert entry["goals"]["fewer_than_each_peer"] is None  # none was there
    assert entry["strategies"]["everlearn"]["mean"] < entry["random_expected"]
    assert {each["split"] for each in entry["splits"]} == {"random", "group"}
    checked = {each["what"]: each for each in entry["reasons"]}  # of two columns no part has two others beside it
    assert set(checked) == {"cases"} and checked["cases"]["named"] > checked["cases"]["random"]
    assert as_markdown([entry]).count("recipes") == 5


def test_peers_choose_what_is_open(problem):
    from everlearn.bench.discovery_peers import View

    known = list(range(10))
    for name, choose in STRATEGIES.items():
        if name == "botorch":
            pytest.importorskip("botorch")
        chosen = choose(View(problem.search, problem.y, 1.0, 8, 0, np.random.default_rng(0)), known)
        assert len(set(chosen)) == 8 and not set(chosen) & set(known), name


def test_no_group_is_on_both_sides():
    groups = [f"g{i % 13}" for i in range(300)]
    train, test = split(groups, 300, np.random.default_rng(3))
    assert not {groups[i] for i in train} & {groups[i] for i in test} and len(test) > 20
    assert split(["one"] * 300, 300, np.random.default_rng(0)) is None


def bench_discovery(*arguments):
    return CliRunner().invoke(app, ["bench", "discovery", *map(str, arguments)])


def test_any_table_by_the_verb(table, tmp_path):
    places = ["--results", tmp_path / "r.jsonl", "--scratch", tmp_path / "s"]
    options = ["--target", "y", "--inputs", "columns", "--group", "lab", "--quick", "--strategies", "random,everlearn"]
    said = bench_discovery("--data", table, *options, *places, "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["sets"][0]["candidates"] == 200 and found["machine"]["torch"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], SettingError, "give either --folder DIRECTORY"),
        (["--data", "TABLE"], SettingError, "--data needs --target"),
        (["--data", "TABLE", "--target", "z"], SettingError, "has no column 'z'; it has a, b, lab, y"),
        (["--data", "none.csv", "--target", "z"], DataError, "there is no such file"),
        (["--data", "TABLE", "--target", "y", "--seeds", "0"], SettingError, "--seeds is 0; expected 1 or more"),
        (["--data", "TABLE", "--target", "y", "--strategies", "luck"], SettingError, "no strategy 'luck'"),
        (["--folder", ".", "--sets", "gold"], SettingError, "there is no set 'gold'"),
        (["--folder", "none"], DataError, "there is no such file; --folder names"),
    ],
)
def test_bad_use_gets_one_line(table, tmp_path, arguments, error, message):
    given = [table if each == "TABLE" else each for each in arguments]
    said = bench_discovery(*given, "--scratch", tmp_path / "s", "--results", tmp_path / "r.jsonl")
    assert isinstance(said.exception, EverlearnError) and isinstance(said.exception, error)
    assert message in str(said.exception) and "\n" not in str(said.exception)
