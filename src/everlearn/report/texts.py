"""Texts for pages: words on a ground coloured by what a map gives them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from everlearn.data.text import to_text
from everlearn.explainers import Explanation


def text_of(sample: Tensor) -> str:
    """The text of ``[1, 1, B]`` uint8."""
    return to_text(sample.cpu().numpy())


def coloured(e: Explanation) -> list[dict[str, Any]]:
    """Each word with its strength, −1 to 1: the map's value over the largest, so that the strongest has full colour.

    Examples
    --------
    >>> import torch
    >>> from everlearn.metrics.verdict import Faithfulness
    >>> trust = Faithfulness(0.9, 0.1, (0.5, 0.5), (0.5, 0.5), "supported")
    >>> heat = torch.tensor([[[0.0, 2.0]]])
    >>> coloured(Explanation(0, 0, 0.9, True, heat, None, trust, "", "occlusion", parts=("a ", "goal")))
    [{'text': 'a ', 'strength': 0.0}, {'text': 'goal', 'strength': 1.0}]
    """
    values = e.map.flatten()
    largest = float(values.abs().max()) if len(values) else 0.0
    return [
        {"text": part, "strength": round(value / largest, 3) if largest else 0.0}
        for part, value in zip(e.parts, values.tolist())
    ]
