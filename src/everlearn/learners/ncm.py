"""NCM: the nearest class mean of frozen features, over all samples seen.

Mensink, Verbeek, Perronnin, Csurka 2013, *Distance-Based Image Classification: Generalizing to New Classes at Near-Zero
Cost* (TPAMI 35(11)). A correction moves means as learning vector quantisation does: Kohonen 1990, *The Self-Organizing
Map* (Proceedings of the IEEE 78(9)), LVQ1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.learners.streaming_head import StreamingHead, precise, rows

RATE = 0.02
"""By what share of a mean's length a rehearsed correction moves it."""


class NCM(StreamingHead):
    """logits = −‖f/‖f‖ − μ_c‖², μ_c the normalised mean of the normalised features of all samples of class c."""

    def add(self, f: Tensor, y: Tensor) -> Tensor:
        """Add a batch to the class sums; returns the mean squared distance to the class means."""
        f = self.lift(f)
        sums = rows(self.sums.get("sum"), len(self.classes.codes), f[0]).index_add(0, y, f)
        self.sums = {"sum": sums}
        return (f - F.normalize(sums, dim=1)[y]).square().sum(1).mean().float()

    def lift(self, f: Tensor) -> Tensor:
        """Features of length 1."""
        return F.normalize(f, dim=1)

    def solve(self) -> tuple[Tensor, Tensor]:
        """−‖f − μ‖² = 2 f·μ − 1 − 1 for lengths of 1."""
        μ_dC = F.normalize(self.sums["sum"], dim=1).T
        return 2 * μ_dC, torch.full_like(μ_dC[0], -2.0)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """Move the class's mean towards a corrected sample, and that of the class which wins away from it.

        One sample more would be nothing among thousands.
        """
        f, sums = self.features(x), self.sums["sum"]
        wins = self._classify(f).argmax(1)
        f = self.lift(f.to(precise(self.device)))
        step = RATE * sums.norm(dim=1, keepdim=True)
        self.sums = {"sum": sums.index_add(0, y, step[y] * f).index_add(0, wins, -step[wins] * f)}
        self.forget_derived()
