"""Feed-forward layers: one for all tokens, or a mixture of experts of which each token uses a few.

DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066): shared and routed experts. Balance without an auxiliary loss: Wang et
al. 2024 (arXiv 2408.15664). No token is dropped: rows are sorted by expert and multiplied group by group.

Letters of shapes: T tokens, D width, E experts, K experts of a token, R = T K rows, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial
from torch.nn import functional as F

Compute = Callable[[Tensor, Tensor], Tensor]
Exchange = Callable[[Compute, Tensor, Tensor], Tensor]


class FeedForward(nn.Module):
    """SwiGLU, or two matrices with GELU between."""

    def __init__(self, hidden: int, ffn: int, gated: bool = True) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, ffn, bias=False) if gated else None
        self.up = nn.Linear(hidden, ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., D]``."""
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Router(nn.Module):
    """Chooses K experts for each token, and their weights.

    The bias decides who is chosen, never the weights; `balance` moves it after each step.
    """

    bias: Tensor
    counts: Tensor

    def __init__(self, hidden: int, experts: int, top_k: int, score: str, normalise: bool, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, hidden))
        nn.init.normal_(self.weight, std=0.02)
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("counts", torch.zeros(experts), persistent=False)
        self.top_k, self.score, self.normalise, self.scale = top_k, score, normalise, scale

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the chosen experts, ``[T, K]`` each; scores are computed in float32."""
        logits_TE = F.linear(x_TD.float(), local(self.weight).float())
        scores_TE = logits_TE.sigmoid() if self.score == "sigmoid" else logits_TE.softmax(-1)
        chosen_TK = (scores_TE.detach() + self.bias).topk(self.top_k, -1).indices
        weights_TK = scores_TE.gather(1, chosen_TK)
        if self.normalise:
            weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
        if self.training:
            self.counts += count(chosen_TK.flatten(), len(self.bias))
        return weights_TK * self.scale, chosen_TK

    def balance(self, rate: float) -> None:
        """Raise the bias of experts that had fewer tokens than the mean since the last call, lower the others'."""
        self.bias += rate * torch.sign(self.counts.mean() - self.counts)
        self.counts.zero_()


class Experts(nn.Module):
    """E feed-forward layers in three tensors. Expert parallelism sets ``exchange``: rows go to experts and back."""

    def __init__(self, hidden: int, experts: int, ffn: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(experts, hidden, ffn))
        self.up = nn.Parameter(torch.empty(experts, hidden, ffn))
        self.down = nn.Parameter(torch.empty(experts, ffn, hidden))
        for weight in (self.gate, self.up, self.down):
            nn.init.normal_(weight, std=0.02)
        self.exchange: Exchange | None = None

    def forward(self, x_TD: Tensor, weights_TK: Tensor, chosen_TK: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs, ``[T, D]``."""
        top_k = chosen_TK.shape[1]
        order_R = chosen_TK.flatten().argsort(stable=True)
        counts_E = count(chosen_TK.flatten(), len(self.gate))
        rows_RD = x_TD[order_R // top_k]
        if self.exchange is None:
            out_RD = self.compute(rows_RD, counts_E)
        else:
            out_RD = self.exchange(self.compute, rows_RD, counts_E)
        back_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
        out_TKD = out_RD[back_R].unflatten(0, (-1, top_k))
        return (out_TKD * weights_TK[..., None].to(out_TKD.dtype)).sum(1)

    def compute(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert through the experts held here."""
        gate, up, down = local(self.gate), local(self.up), local(self.down)
        inner_RF = F.silu(grouped(rows_RD, gate, counts_E)) * grouped(rows_RD, up, counts_E)
        return grouped(inner_RF, down, counts_E)


class Mixture(nn.Module):
    """Shared and routed experts.

    Examples
    --------
    >>> layer = Mixture(hidden=16, experts=4, top_k=2, ffn=32, shared_ffn=32)
    >>> layer(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 3, 16])
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        ffn: int,
        shared_ffn: int = 0,
        *,
        score: str = "sigmoid",
        normalise: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.router = Router(hidden, experts, top_k, score, normalise, scale)
        self.experts = Experts(hidden, experts, ffn)
        self.shared = FeedForward(hidden, shared_ffn) if shared_ffn else None

    def forward(self, x_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` to ``[B, S, D]``."""
        x_TD = x_BSD.flatten(0, -2)
        y_TD = self.experts(x_TD, *self.router(x_TD))
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return y_TD.view_as(x_BSD)


def count(numbers: Tensor, size: int) -> Tensor:
    """How often each of 0 … size − 1 occurs: bincount, in a form that can be traced.

    Examples
    --------
    >>> count(torch.tensor([0, 2, 2]), 4).tolist()
    [1, 0, 2, 0]
    """
    return numbers.new_zeros(size).scatter_add_(0, numbers, torch.ones_like(numbers))


def grouped(rows_RD: Tensor, weights_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Rows, sorted by group, times their group's matrix: ``[R, F]``.

    Examples
    --------
    >>> rows, weights = torch.eye(2), torch.tensor([[[2.0], [0.0]], [[0.0], [3.0]]])
    >>> grouped(rows, weights, torch.tensor([1, 1])).flatten().tolist()
    [2.0, 3.0]
    """
    aligned = all(size * rows_RD.element_size() % 16 == 0 for size in weights_EDF.shape[1:])
    if aligned and len(rows_RD) and rows_RD.dtype == torch.bfloat16 and hasattr(F, "grouped_mm"):
        return F.grouped_mm(rows_RD, weights_EDF, offs=counts_E.cumsum(0).to(torch.int32))
    return grouped_padded(rows_RD, weights_EDF, counts_E)


def grouped_padded(rows_RD: Tensor, weights_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """`grouped` by one batched product over groups padded to the longest."""
    longest = int(counts_E.max()) if len(rows_RD) else 0
    group_R = torch.arange(len(counts_E), device=rows_RD.device).repeat_interleave(counts_E)
    slot_R = torch.arange(len(rows_RD), device=rows_RD.device) - (counts_E.cumsum(0) - counts_E)[group_R]
    padded = rows_RD.new_zeros(len(counts_E), longest, rows_RD.shape[1]).index_put((group_R, slot_R), rows_RD)
    return torch.bmm(padded, weights_EDF)[group_R, slot_R]


def local(weight: Tensor) -> Tensor:
    """The part of a weight that this process uses; where several have a copy, their gradients are to be summed."""
    if not isinstance(weight, DTensor):
        return weight
    return weight.to_local(grad_placements=[Partial() if p.is_replicate() else p for p in weight.placements])
