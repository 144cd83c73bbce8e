"""The bare loop of ``benchmarks/pretrain.py``: one file, nothing of Everlearn in the model or the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODEL = {"layers": 7, "hidden": 320, "heads": 5, "ffn": 896, "seq_len": 256, "tied": True}
LR, BETAS, DECAY, CLIP, WARMUP = 1e-3, (0.9, 0.95), 0.1, 1.0, 100
BATCH, LENGTH, VALID = 4, 128, 32


class BareBlock(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(d, 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.norm2 = nn.RMSNorm(d, 1e-5)
        self.gate, self.up = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False)
        self.down = nn.Linear(ffn, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, d = x.shape
        h = self.norm1(x)
        q, k, v = (m(h).view(b, s, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, s, d))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Bare(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        d, heads = MODEL["hidden"], MODEL["heads"]
        self.embed = nn.Embedding(vocab, d)
        self.blocks = nn.ModuleList(BareBlock(d, heads, MODEL["ffn"]) for _ in range(MODEL["layers"]))
        self.norm = nn.RMSNorm(d, 1e-5)
        angle = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(d // heads // 2) / (d // heads // 2))
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x) @ self.embed.weight.T


class BareLoop:
    """Model, AdamW, clipping, warm-up, a last fifth of decay; ``step`` takes one step."""

    def __init__(
        self, vocab: int, weights: dict[str, Tensor], batch: Callable[[int], tuple[Tensor, Tensor]], steps: int
    ) -> None:
        self.model, self.batch, self.done, self.steps, self.loss = Bare(vocab), batch, 0, steps, math.nan
        self.model.load_state_dict(weights)
        groups = [{"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": DECAY},
                  {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
        self.optimiser = torch.optim.AdamW(groups, LR, BETAS, 1e-8, fused=True)

    def step(self) -> float:
        tokens, labels = self.batch(self.done)
        decayed = max(0.0, self.done - (self.steps - self.steps // 5)) / max(1, self.steps // 5)
        for group in self.optimiser.param_groups:
            group["lr"] = LR * min(1.0, (self.done + 1) / WARMUP, 1 - decayed**0.5)
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        self.loss = loss.item()
        return self.loss

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "done": self.done}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        losses = []
        for tokens, labels in batches:
            losses.append(F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten()).item())
        return sum(losses) / len(losses)
