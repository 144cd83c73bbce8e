"""Results of `bench.discovery.run_table` as tables: experiments needed, error of prediction, check of the reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from everlearn.bench.tables import half_width

_ERRORS = ("mae", "mae_forest", "mae_of_the_mean", "spearman", "within_80", "width_80", "stretch")


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval by Student's t; None for one value.

    Examples
    --------
    >>> mean, half = mean_interval([10.0, 12.0])
    >>> mean, round(half, 1)
    (11.0, 12.7)
    """
    return statistics.mean(values), half_width(values) if len(values) > 1 else None


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each set.

    Returns
    -------
    list of dict
        set, candidates, best, needed, random_expected; ``strategies``: for each the mean count, its interval's half
        width, how many seeds, how many gave up (their count is a lower bound) and seconds of one seed; ``goals``: ours
        over random's expectation, and whether it is at most a tenth and below each peer; ``splits``: mean errors;
        ``reasons``: what taking out the named ones changes, and as much at random.
    """
    found = []
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        about = {key: of_set[0][key] for key in ("set", "candidates", "best", "needed", "random_expected", "left_out")}
        searches = [row for row in of_set if row["kind"] == "search"]
        strategies = {
            strategy: _strategy([row for row in searches if row["strategy"] == strategy])
            for strategy in dict.fromkeys(row["strategy"] for row in searches)
        }
        entry = about | {"strategies": strategies, "goals": _goals(strategies, about["random_expected"])}
        checks = [check for row in of_set if row["kind"] == "reasons" for check in row["checks"]]
        splits = [row for row in of_set if row["kind"] == "split"]
        found.append(entry | {"splits": _splits(splits), "reasons": _reasons(checks)})
    return found


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    """All three as Markdown."""
    lines = [
        "Experiments until half of the best 1 % are found (mean and 95 % interval; ≥: some seeds gave up)",
        "",
        "| set | candidates | to find | strategy | experiments | of random's | seeds | gave up | s per seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in found:
        for name, e in entry["strategies"].items():
            mean = f"{'≥ ' if e['gave_up'] else ''}{e['mean']:.0f}" + (
                f" ± {e['interval']:.0f}" if e["interval"] else ""
            )
            share = e["mean"] / entry["random_expected"]
            lines.append(
                f"| {entry['set']} | {entry['candidates']} | {entry['needed']} of {entry['best']} | {name} | {mean} "
                f"| {share:.1%} | {e['seeds']} | {e['gave_up']} | {e['seconds']:.1f} |"
            )
    lines += [
        "",
        "Error of prediction: learned from at most 500, foreseen for at most 500 others",
        "",
        "| set | split | MAE | forest's | of the mean | rank correlation | within 80 % interval | width | splits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in found:
        for e in entry["splits"]:
            lines.append(
                f"| {entry['set']} | {e['split']} | {e['mae']:.4g} | {e['mae_forest']:.4g} "
                f"| {e['mae_of_the_mean']:.4g} | {e['spearman']:.2f} | {e['within_80']:.0%} "
                f"| {e['width_80']:.2f} | {e['splits']} |"
            )
    lines += [
        "",
        "Reasons: change of the expected value (normal scores) without what is named, and without as much at random",
        "",
        "| set | taken out | named | at random | named changes more | supported | proposals |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in found:
        for e in entry["reasons"]:
            lines.append(
                f"| {entry['set']} | {e['what']} | {e['named']:.3f} ± {e['interval'] or 0:.3f} | {e['random']:.3f} "
                f"| {e['more']:.0%} | {e['supported']:.0%} | {e['proposals']} |"
            )
    return "\n".join(lines)


def _reasons(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for what in ("parts", "cases"):
        each = [check for check in checks if check["what"] == what]
        if each:
            named, half = mean_interval([check["named"] for check in each])
            found.append(
                {
                    "what": what,
                    "named": named,
                    "interval": half,
                    "random": statistics.mean(check["random"] for check in each),
                    "more": statistics.mean(check["named"] > check["random"] for check in each),
                    "supported": statistics.mean(check["verdict"] == "supported" for check in each),
                    "proposals": len(each),
                }
            )
    return found


def _strategy(rows: list[dict[str, Any]]) -> dict[str, Any]:
    mean, half = mean_interval([row["experiments"] for row in rows])
    return {
        "mean": mean,
        "interval": half,
        "seeds": len(rows),
        "gave_up": sum(not row["arrived"] for row in rows),
        "seconds": statistics.mean(row["seconds"] for row in rows),
        "experiments": [row["experiments"] for row in rows],
    }


def _goals(strategies: dict[str, dict[str, Any]], random_expected: float) -> dict[str, Any]:
    if "everlearn" not in strategies:
        return {}
    ours = strategies["everlearn"]["mean"]
    peers = [e["mean"] for name, e in strategies.items() if name not in ("everlearn", "random")]
    return {
        "of_random": ours / random_expected,
        "a_tenth_of_random": ours <= random_expected / 10,
        "fewer_than_each_peer": all(ours < mean for mean in peers) if peers else None,
    }


def _splits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name in ("random", "group"):
        each = [split for row in rows for split in row["splits"] if split["split"] == name]
        if each:
            means = {key: statistics.mean(split[key] for split in each) for key in _ERRORS}
            found.append({"split": name, "splits": len(each)} | means)
    return found
