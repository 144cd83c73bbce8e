"""An explanation: map, remembered evidence, words, and how faithful the map was measured to be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from everlearn.explainers.evidence import Evidence
from everlearn.metrics.verdict import Faithfulness


@dataclass(frozen=True)
class Explanation:
    """Why a model says what it says of one picture.

    Parameters
    ----------
    target, code : int
        Class index in the model, and label code. They are equal where there is no learner.
    probability : float
        Confidence in the class; the raw output where ``kind`` is "none".
    predicted : bool
        Whether it is the class that the model predicts.
    map : Tensor
        ``[1, H, W]`` float32 on the CPU; of a text ``[1, 1, W]``, a value for each of its words.
    evidence : list of Evidence or None
        By falling value; None where there is no memory (a bare module).
    faithfulness : Faithfulness
        Insertion and deletion of this map, those of random maps, and the verdict.
    words : str
        Three sentences that claim no more than the verdict.
    explainer, kind : str
        Name of the explainer, and how outputs became confidences.
    cutoff : float or None
        Confidence below which nothing was drawn: the map is then empty.
    parts : tuple of str
        The words of a text, each with the space behind it; empty for a picture.
    rest : str
        What of a text lay beyond the encoder's length, and was not read.
    """

    target: int
    code: int
    probability: float
    predicted: bool
    map: Tensor
    evidence: list[Evidence] | None
    faithfulness: Faithfulness
    words: str
    explainer: str
    kind: str = "auto"
    cutoff: float | None = None
    parts: tuple[str, ...] = ()
    rest: str = ""

    @property
    def drawn(self) -> bool:
        """Whether the probability reaches the cut-off."""
        return self.cutoff is None or self.probability >= self.cutoff

    @property
    def evidence_for(self) -> list[Evidence]:
        """The strongest first."""
        return [e for e in self.evidence or [] if e.value > 0]

    @property
    def evidence_against(self) -> list[Evidence]:
        """The strongest first."""
        return [e for e in reversed(self.evidence or []) if e.value < 0]

    @property
    def verdict(self) -> str:
        """What was measured allows to be said of the map: "supported", "weak" or "not supported"."""
        return self.faithfulness.verdict
