"""Is one explainer better than the best of the others, or is it chance? Paired differences over the same pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from everlearn.bench.explain import MEASURES, digits, title
from everlearn.bench.tables import half_width

_FEWEST = 3  # pictures of which a difference is told


def against_the_best(rows: Sequence[dict[str, Any]], name: str = "FrugalSISE") -> list[dict[str, Any]]:
    """For each measure the explainer's mean, the best other's, and their difference with its 95 % interval.

    Parameters
    ----------
    rows : sequence of dict
        Of `run_table`.
    name : str
        The explainer; others count that have all its pictures. Random maps do not.

    Returns
    -------
    list of dict
        measure, mean, other, other_mean, better (above 0: the explainer is ahead), interval, pictures.

    Examples
    --------
    >>> ours = [{"name": "FrugalSISE", "package": None, "picture": i, "drop": x} for i, x in enumerate((1.0, 2.0, 4.0))]
    >>> rows = ours + [row | {"name": "RISE", "drop": row["drop"] + 2 - row["picture"] / 2} for row in ours]
    >>> (found,) = against_the_best(rows)
    >>> found["other"], found["better"], round(found["interval"], 2)
    ('RISE', 1.5, 1.24)
    """
    by: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(title(row), {})[row["picture"]] = row
    mine, found = by.pop(name, {}), []
    for measure, more in MEASURES.items():
        pictures = [p for p, row in mine.items() if measure in row]
        others = {
            called: [held[p][measure] for p in pictures]
            for called, held in by.items()
            if not called.startswith("random")
            and mine.keys() <= held.keys()
            and all(measure in held[p] for p in pictures)
        }
        if len(pictures) < _FEWEST or not others:
            continue
        sign = 1 if more else -1
        other = max(others, key=lambda called: sign * statistics.mean(others[called]))
        values = [mine[p][measure] for p in pictures]
        better = [sign * (a - b) for a, b in zip(values, others[other])]
        found.append({
            "measure": measure, "mean": statistics.mean(values), "other": other,
            "other_mean": statistics.mean(others[other]), "better": statistics.mean(better),
            "interval": half_width(better), "pictures": len(pictures),
        })  # fmt: skip
    return found


def as_text(found: Sequence[dict[str, Any]], name: str = "FrugalSISE") -> str:
    """A line for each measure; empty where nothing was compared."""
    lines = [f"{name} against the best other, better by, and the 95 % interval of it:"] if found else []
    for e in found:
        d = digits(e["measure"])
        values = f"{e['mean']:.{d}f}, {e['other_mean']:.{d}f} {e['other']}"
        lines.append(f"- {e['measure']}: {values}; {e['better']:+.{d}f} ± {e['interval']:.{d}f}")
    return "\n".join(lines)
