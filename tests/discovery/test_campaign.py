"""Ask, tell, and nothing told is lost."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest

from everlearn.discovery import Campaign, CampaignConfig, Measurement
from everlearn.discovery.page import pool_map, progress
from everlearn.errors import DataError, RunError, SettingError


def names(proposals):
    return [each.candidate for each in proposals]


def test_it_finds_the_best(begin, columns):
    campaign = begin(columns, inputs="columns")
    truth = {c.name: -((int(c.cells["T"]) - 6) ** 2) + 5 * (c.cells["salt"] == "b") for c in campaign.pool.candidates}
    best = max(truth, key=truth.get)
    for _ in range(6):
        proposals = campaign.ask()
        assert not {each.candidate for each in proposals} & {each.candidate for each in campaign.measured}
        campaign.tell({each.candidate: truth[each.candidate] for each in proposals})
        if best in {each.candidate for each in campaign.measured}:
            return
    pytest.fail("18 of 60 experiments did not find the best recipe")


def test_every_eighth_measurement_is_for_what_it_tells(begin, columns):
    campaign = begin(columns, inputs="columns")
    measured = len(campaign.search.known[0])
    proposals = campaign.ask(16)
    assert [each.why for each in proposals] == ["improve"] * 14 + ["learn"] * 2
    assert len(set(names(proposals))) == 16
    assert campaign.explain(proposals[-1:])[0].words.startswith("Chosen for what it tells of the other candidates")
    turn = [each.why for each in campaign.ask(8 - measured % 8)]  # counted on from what is measured
    assert turn.count("learn") == 1 and "learn" not in {each.why for each in campaign.ask(7 - measured % 8)}


def test_ask_depends_on_the_seed_and_what_was_told_alone(begin, columns):
    one, other = begin(columns, "one", inputs="columns"), begin(columns, "other", inputs="columns")
    assert names(one.ask()) == names(one.ask()) == names(other.ask())
    told = dict.fromkeys(names(one.ask()), 1.5)
    one.tell(told)
    for name in reversed(told):
        other.tell({name: 1.5})
    assert names(one.ask(5)) == names(other.ask(5))


def test_it_goes_on_where_it_was(begin, columns, tmp_path):
    campaign = begin(columns, inputs="columns")
    campaign.tell({names(campaign.ask())[0]: 2.0})
    expected, known = names(campaign.ask()), campaign.measured
    campaign.close()
    columns.unlink()  # the run has its own copy
    with Campaign.open(tmp_path / "run") as again:
        assert again.measured == known
        assert names(again.ask()) == expected


def test_repeats_are_averaged_and_unknown_candidates_kept_aside(begin, columns):
    campaign = begin(columns, inputs="columns")
    name = names(campaign.ask())[0]
    told = campaign.tell([Measurement(name, (1.0,)), Measurement(name, (3.0,)), Measurement("row 999", (1.0,))])
    assert (told.learned, told.repeats) == (2, 1)
    assert str(told.aside[0]) == "row 3: unknown candidate 'row 999'; it is not in the pool"
    row = campaign.search.row[name]
    rows, means, times = campaign.search.values()
    assert (means[rows.index(row)], times[rows.index(row)]) == (2.0, 2.0)


def test_what_is_decided_on_is_not_proposed_again(begin, columns, tmp_path):
    campaign = begin(columns)
    first, second, third = [each.candidate for each in campaign.ask()]
    campaign.decide(first, "accept")
    campaign.decide(second, "reject", "smells", "Kim")
    asked = [each.candidate for each in campaign.ask(10)]
    assert third in asked and not {first, second} & set(asked)
    assert campaign.decisions[second].note == "smells"
    campaign.decide(second, "undo")
    assert second in [each.candidate for each in campaign.ask(10)]
    campaign.close()
    with Campaign.open(tmp_path / "run") as again:
        assert list(again.decisions) == [first]
    with pytest.raises(DataError, match="there is no candidate 'row 999'"):
        campaign.decide("row 999", "accept")
    with pytest.raises(SettingError, match="the verdict is 'maybe'; expected one of accept, reject, undo"):
        campaign.decide(first, "maybe")


def test_a_telling_can_be_taken_back(begin, columns):
    campaign = begin(columns)
    known, before = campaign.measured, [each.candidate for each in campaign.ask()]
    campaign.tell({before[0]: 1000.0})
    (telling,) = campaign.told
    campaign.take_back(telling.number)
    assert campaign.measured == known and [each.candidate for each in campaign.ask()] == before
    with pytest.raises(DataError, match=f"there is no entry {telling.number} to take back"):
        campaign.take_back(telling.number)


def test_what_was_taken_back_can_be_told_again(begin, columns, tmp_path):
    campaign = begin(columns, inputs="columns")
    known, name, file = campaign.measured, campaign.ask(1)[0].candidate, tmp_path / "results.csv"
    file.write_text(f"candidate,y\n{name},-4\n")
    for tell in (lambda: campaign.tell_file(file), lambda: campaign.tell({name: -4.0}, key="a key")):
        assert tell().learned == 1 and tell().again
        campaign.take_back(campaign.told[0].number)
        assert campaign.measured == known
        assert tell().learned == 1 and tell().again
        assert campaign.measured == [*known, Measurement(name, (-4.0,))]
        campaign.take_back(campaign.told[0].number)


def test_a_key_stands_for_the_same_results(begin, columns):
    campaign = begin(columns, inputs="columns")
    one, other = names(campaign.ask(2))
    campaign.tell({one: 1.0}, key="a key")
    for results in ({other: 1.0}, {one: 2.0}, {one: 1.0, other: 1.0}, {"no such": 1.0}):
        with pytest.raises(DataError, match="the key 'a key' is told already with other results, as entry 2; expected"):
            campaign.tell(results, key="a key")
    assert campaign.tell({one: 1}, key="a key").again and len(campaign.told) == 1


def test_results_from_a_file(begin, columns, tmp_path):
    campaign = begin(columns, inputs="columns")
    first, second, third = names(campaign.ask())
    file = tmp_path / "results.csv"
    file.write_text(f"candidate,y\n{first},1.5\n{second},<1E-10\nrow 999,3\n{third},\n")
    told = campaign.tell_file(file)
    assert told.learned == 1
    assert [str(each) for each in told.aside] == [
        f"row 3: {second}: y: '<1E-10' is a bound, expected a number",
        "row 4: unknown candidate 'row 999'; it is not in the pool",
        f"row 5: {third} has no value",
    ]
    assert campaign.tell_file(file).again
    assert len(campaign.measured) == len(campaign.pool.measured) + 1
    assert {source for source, _ in campaign.aside} == {"results.csv"}


def test_nothing_to_learn_from_yet(begin, tmp_path):
    pool = tmp_path / "flat.csv"
    pool.write_text("T,y\n" + "".join(f"{t},{3 if t < 5 else ''}\n" for t in range(30)))
    campaign = begin(pool)
    proposals = campaign.ask()
    assert len(set(names(proposals))) == 3 and {each.why for each in proposals} == {"spread"}
    assert "y has one value, 3, in all 5 measured candidates" in campaign.search.notes()[0]
    assert campaign.explain(proposals)[0].words.startswith("nothing is learned yet")
    campaign.tell({each.candidate: float(i) for i, each in enumerate(proposals)})
    assert campaign.search.notes() == [] and {each.why for each in campaign.ask()} == {"improve"}


def test_a_batch_larger_than_the_pool_is_all_that_is_open(begin, columns):
    campaign = begin(columns, inputs="columns")
    open_rows = campaign.search.open_rows().tolist()
    proposals = campaign.ask(10**9)  # as many turns would take hours
    assert sorted(each.row for each in proposals) == open_rows


def test_an_exhausted_pool_proposes_nothing(begin, tmp_path):
    pool = tmp_path / "small.csv"
    pool.write_text("T,y\n1,1\n2,2\n3,3\n4,\n")
    campaign = begin(pool)
    assert names(campaign.ask()) == ["row 5"]
    campaign.tell({"row 5": 4.0})
    assert campaign.ask() == []


def recipes(folder, price):
    """y rises with T; what is measured ends at 27."""
    rows = [f"{t},{price.get(t, 1)},{t if t % 3 == 0 and t < 30 else ''}" for t in range(40)]
    (folder / "recipes.csv").write_text("\n".join(["T,price,y", *rows]))
    return folder / "recipes.csv"


def test_limits_and_costs(begin, tmp_path):
    free = int(begin(recipes(tmp_path, {}), "free", ignore=["price"]).ask(1)[0].text)
    assert free > 20
    below = [{"column": "T", "sign": "<=", "bound": free - 1}]
    limited = begin(recipes(tmp_path, {}), "limited", ignore=["price"], limits=below).ask(20)
    assert max(int(each.text) for each in limited) < free
    costly = begin(recipes(tmp_path, {free: 1e6}), "costly", cost="price").ask(1)[0]
    assert int(costly.text) != free


def test_what_limits_and_costs_say_nothing_of_is_named(begin, tmp_path):
    limits = [{"column": "price", "sign": "<=", "bound": 5}]
    pool = recipes(tmp_path, {38: "", 39: "9 EUR", 37: "cheap"})
    campaign = begin(pool, cost="price", limits=limits, inputs="columns")
    kept, counted = campaign.search.notes()
    assert kept.startswith("price holds no number for 3 of 40 candidates (row 39: 'cheap' is not a number)")
    assert "no cost above 0 for 3 of 40 candidates" in counted and counted.endswith("they count as the median, 1")
    assert not {"row 39", "row 40", "row 41"} & set(names(campaign.ask(40)))


def test_several_targets_give_a_front(begin, tmp_path):
    pool = tmp_path / "pool.csv"
    rows = [f"{t},{t if t % 3 == 0 else ''},{(20 - t) if t % 3 == 0 else ''}" for t in range(30)]
    pool.write_text("\n".join(["T,y,z", *rows]))
    campaign = begin(pool, targets=[{"name": "y"}, {"name": "z"}])
    proposals = campaign.ask(4)
    assert set(proposals[0].outlook) == {"y", "z"} and proposals[0].chance is None
    assert len(campaign.search.front()) == len(campaign.pool.measured)  # each is best at its own compromise
    campaign.tell({proposals[0].candidate: {"y": 100.0, "z": 100.0}})
    assert campaign.search.front() == [proposals[0].row]
    assert names(campaign.ask()) == names(campaign.ask())


KILLED = """
import sys
from everlearn.discovery import Campaign
with Campaign.open(sys.argv[1]) as campaign:
    for i, candidate in enumerate(campaign.pool.candidates):
        campaign.tell({candidate.name: float(i)})
        print(candidate.name, flush=True)
"""


def test_killed_at_any_moment_nothing_told_is_lost(begin, columns, tmp_path):
    begin(columns, inputs="columns").close()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    heard = [process.stdout.readline().strip() for _ in range(7)]
    os.kill(process.pid, signal.SIGKILL)
    heard += process.stdout.read().split("\n")[:-1]
    process.wait()
    with Campaign.open(tmp_path / "run") as campaign:
        told = [each.candidate for each in campaign.measured[len(campaign.pool.measured) :]]
        assert told[: len(heard)] == heard and len(told) <= len(heard) + 1
        assert len(campaign.ask()) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": []}, "setting targets"),
        ({"targets": [{"name": "y"}], "batch": 0}, "setting batch is 0"),
        ({"targets": [{"name": "y"}], "inputs": "pictures"}, "setting inputs is 'pictures'"),
    ],
)
def test_bad_settings_get_one_line(settings, message):
    with pytest.raises(SettingError, match=message):
        CampaignConfig.of(settings)


def test_bad_use_gets_one_line(begin, columns, tmp_path):
    campaign = begin(columns, inputs="columns")
    with pytest.raises(SettingError, match="n is 0; expected 1 or more"):
        campaign.ask(0)
    with pytest.raises(SettingError, match="has a value of 'z'; the targets are y"):
        campaign.tell({"row 2": {"z": 1.0}})
    (tmp_path / "results.csv").write_text("who,y\na,1\n")
    with pytest.raises(DataError, match="expected candidate and at least one of the targets y"):
        campaign.tell_file(tmp_path / "results.csv")
    with pytest.raises(RunError, match="is in use by another process"):
        Campaign.open(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        begin(columns, inputs="columns")
    with pytest.raises(RunError, match="there is no such directory"):
        Campaign.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match=r"is not a discovery run: it has no campaign\.toml"):
        Campaign.open(tmp_path / "other")


def test_charts_show_a_target_in_any_letters_and_nobody_is_warned(begin, tmp_path):
    (tmp_path / "pool.csv").write_text("x,전도도\n" + "".join(f"{x},{x * x}\n" for x in range(8)), encoding="utf-8")
    campaign = begin(tmp_path / "pool.csv", targets=[{"name": "전도도"}], inputs="columns")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = progress(campaign), pool_map(campaign.search, [])
    assert all("전도도</text>" in chart for chart in charts)
