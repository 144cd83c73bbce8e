"""Three sentences from what was measured: what and where, which remembered cases, and how far to trust the map.

The words never claim more than the verdict: only a supported map's place is given as what the decision rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from everlearn.explainers.explanation import Explanation

_WIDE = 0.35  # half the energy on more than this share of the picture points nowhere
_NAMED = 4  # words of a text that are named at most


def where(heatmap: Tensor) -> tuple[str, float] | None:
    """Where a map's energy lies: a place as the viewer sees it, and the share of the picture that carries half.

    Parameters
    ----------
    heatmap : Tensor
        ``[H, W]`` or ``[1, H, W]``; negative values count as none.

    Returns
    -------
    (str, float) or None
        None for a map without energy.

    Examples
    --------
    >>> import torch
    >>> heatmap = torch.zeros(9, 9)
    >>> heatmap[:3, :3] = 1
    >>> where(heatmap)
    ('upper left', 0.06172839506172839)
    """
    energy = heatmap.reshape(heatmap.shape[-2:]).clamp(min=0).double()
    total = float(energy.sum())
    if not total > 0:
        return None
    h, w = energy.shape
    ranked = energy.flatten().sort(descending=True)
    n = int((ranked.values.cumsum(0) < total / 2).sum()) + 1
    core = torch.zeros(h * w, dtype=torch.float64, device=energy.device)
    core[ranked.indices[:n]] = ranked.values[:n]
    core = core.reshape(h, w) / core.sum()
    y = float((core.sum(1) * (torch.arange(h, device=core.device) + 0.5)).sum()) / h
    x = float((core.sum(0) * (torch.arange(w, device=core.device) + 0.5)).sum()) / w
    return _place(y, x), n / (h * w)


def _place(y: float, x: float) -> str:
    row = "upper" if y < 1 / 3 else "lower" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    if row and column:
        return f"{row} {column}"
    return f"{row} middle" if row else column or "centre"


def strongest(values: Tensor, parts: Sequence[str]) -> tuple[list[str], int] | None:
    """The words that carry half of a map's energy, the strongest first and at most four of them, and how many do.

    Parameters
    ----------
    values : Tensor
        ``[W]`` in any shape; negative values count as none.
    parts : sequence of str
        The words.

    Examples
    --------
    >>> import torch
    >>> strongest(torch.tensor([0.1, 0.7, 0.2]), ["the ", "striker ", "scores"])
    (['striker'], 1)
    """
    energy = values.flatten().clamp(min=0).double()
    total = float(energy.sum())
    if not total > 0:
        return None
    ranked = energy.sort(descending=True)
    n = int((ranked.values.cumsum(0) < total / 2).sum()) + 1
    return [parts[i].strip() for i in ranked.indices[: min(n, _NAMED)].tolist()], n


def words(explanation: Explanation, name: Callable[[int], str]) -> str:
    """The three sentences; ``name`` gives the name of a label code. Below the cut-off there is no map to speak of."""
    if not explanation.drawn:
        return f"{_too_low(explanation, name)} {_cases(explanation, name)}"
    return " ".join([_what(explanation, name), _cases(explanation, name), _trust(explanation)])


def _what(e: Explanation, name: Callable[[int], str]) -> str:
    if e.predicted:
        head = f"Predicted: {name(e.code)}, {_confidence(e)}"
    else:
        head = f"Asked about: {name(e.code)}, {_confidence(e)}, which is not the prediction"
    if e.parts:
        return f"{head}; {_in_words(e)}"
    found = where(e.map)
    if found is None:
        return f"{head}; the map is empty: no region stands out."
    place, share = found
    at = "spread over the picture" if share > _WIDE else f"at the {place}"
    if e.verdict == "supported":
        return f"{head}; it rests on a region {at}, {share:.0%} of the picture carrying half of the map."
    if e.verdict == "weak":
        return f"{head}; the map points {_to(at)} ({share:.0%} of the picture carries half of it), with weak support."
    return f"{head}; no region can be named for it."


def _in_words(e: Explanation) -> str:
    found = strongest(e.map, e.parts)
    if found is None:
        return "the map is empty: no word stands out."
    named, n = found
    listed = ", ".join(f"“{word}”" for word in named) + (f" and {n - len(named)} more" if n > len(named) else "")
    share = f"{n} of {len(e.parts)} words carrying half of the map"
    if e.verdict == "supported":
        return f"it rests on {listed}, {share}."
    if e.verdict == "weak":
        return f"the map points to {listed} ({share}), with weak support."
    return "no word can be named for it."


def _too_low(e: Explanation, name: Callable[[int], str]) -> str:
    assert e.cutoff is not None
    limit = f"{e.cutoff:.3g}" if e.kind == "none" else f"{100 * e.cutoff:.3g} %"
    return f"No finding drawn: {name(e.code)} has {_confidence(e)}, below the cut-off of {limit}."


def _to(at: str) -> str:
    return "all over the picture" if at.startswith("spread") else at.replace("at the", "to the", 1)


def _confidence(e: Explanation) -> str:
    if e.kind == "none":
        return f"output {e.probability:.3g}"
    p = e.probability
    shown = "over 99.9 %" if p > 0.999 else "under 0.1 %" if p < 0.001 else f"{100 * p:.1f} %"
    return f"probability {shown}"


def _cases(e: Explanation, name: Callable[[int], str]) -> str:
    if e.evidence is None:
        return "There is no memory of cases to compare with."
    if not e.evidence:
        return "No remembered case speaks for or against it."
    sides = [(e.evidence_for, "for"), (e.evidence_against, "against")]
    parts = []
    for cases, side in sides:
        if cases:
            counts = Counter(name(c.code) for c in cases)
            listed = ", ".join(f"{n} × {label}" for label, n in counts.items())
            parts.append(f"{side} it ({listed}; {sum(c.value for c in cases):+.2f})")
        else:
            parts.append(f"none {side} it")
    return f"Closest remembered cases: {', '.join(parts)}."


def _trust(e: Explanation) -> str:
    f = e.faithfulness
    figures = (
        f"insertion {f.insertion:.2f} against {f.random_insertion:.2f} for random {'orders' if e.parts else 'maps'}, "
        f"deletion {f.deletion:.2f} against {f.random_deletion:.2f}"
    )
    if e.verdict == "supported":
        return f"Measured, the map is supported: {figures}."
    if e.verdict == "weak":
        return f"Measured, the map is only weakly supported: {figures}, within what chance can give."
    return f"Measured, the map is not supported: {figures}, no better than chance; do not rely on it."
