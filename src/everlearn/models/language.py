"""A decoder transformer for language, in plain PyTorch: parallelism is applied from outside and changes no line of it.

Grouped-query attention (Ainslie et al. 2023), rotary positions (Su et al. 2021), RMSNorm (Zhang & Sennrich 2019),
SwiGLU (Shazeer 2020), optional norms of queries and keys, local and global attention in turn, and a mixture of
experts.

Letters of shapes: B sequences, S tokens of a sequence, D width, N heads, K key/value heads, H width of a head, F
width of the feed-forward layer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import ModelError
from everlearn.models.mixture import FeedForward, Mixture

Core = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class LanguageConfig:
    """The shape of a language model and the choices within its blocks.

    Parameters
    ----------
    layers, hidden, heads, ffn, vocab, seq_len : int
        Blocks, width, attention heads, width of the dense feed-forward layer, vocabulary, longest sequence.
    kv_heads, head_dim : int
        Key/value heads and width of a head; 0 stands for ``heads`` and ``hidden / heads``.
    gated, tied, positions : bool
        SwiGLU rather than GELU; one matrix for input and output embedding; learned positions rather than rotary ones.
    window, local_layers : int
        Tokens that local attention sees, and how many blocks have it: global ones are spread evenly, the last is
        global.
    global_rope : bool
        Whether blocks with global attention have rotary positions too (EXAONE 4: no).
    qk_norm, norm_after : bool
        RMSNorm of queries and keys within each head; norms behind attention and feed-forward layer rather than before.
    norm_eps, rope_theta : float
        Constants of RMSNorm and of the rotary positions.
    experts, top_k, expert_ffn, shared_ffn, dense_layers : int
        Routed experts (0: none), experts of a token, width of one, width of the shared expert, first blocks without
        any.
    score : {"sigmoid", "softmax"}
        How the router scores experts.
    normalise, route_scale : bool, float
        Whether a token's weights sum to one, and the factor upon them.

    Raises
    ------
    ModelError
        If a size is not positive or sizes do not divide.

    Examples
    --------
    >>> LanguageConfig(layers=2, hidden=64, heads=4, ffn=128, vocab=256, kv_heads=2).head_dim
    16
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    seq_len: int = 2048
    kv_heads: int = 0
    head_dim: int = 0
    gated: bool = True
    tied: bool = False
    positions: bool = False
    window: int = 0
    local_layers: int = 0
    global_rope: bool = True
    qk_norm: bool = False
    norm_after: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    score: str = "sigmoid"
    normalise: bool = True
    route_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "vocab", "seq_len"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}; expected 1 or more")
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        if not self.head_dim and self.hidden % self.heads:
            raise ModelError(f"hidden {self.hidden} does not divide by {self.heads} heads; give head_dim or change one")
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden // self.heads)
        if self.heads % self.kv_heads:
            raise ModelError(f"{self.heads} heads do not divide by {self.kv_heads} kv_heads; change one of them")
        if self.head_dim % 2 and not self.positions:
            raise ModelError(f"head_dim is {self.head_dim}; rotary positions need an even one")
        if not 0 <= self.local_layers <= self.layers or (self.local_layers and self.window < 1):
            found = f"local_layers {self.local_layers} with window {self.window}"
            raise ModelError(f"{found}; expected 0 to {self.layers} local layers and a window of 1 or more for them")
        if self.score not in ("sigmoid", "softmax"):
            raise ModelError(f"score is {self.score!r}; expected 'sigmoid' or 'softmax'")
        if self.experts and not (0 < self.top_k <= self.experts and self.expert_ffn > 0):
            found = f"top_k {self.top_k}, expert_ffn {self.expert_ffn}"
            raise ModelError(f"{self.experts} experts with {found}; expected 1 ≤ top_k ≤ experts and expert_ffn ≥ 1")
        if self.ffn < 1 and (not self.experts or self.dense_layers):
            raise ModelError(f"ffn is {self.ffn}; expected 1 or more where blocks are dense")

    def is_local(self, layer: int) -> bool:
        """Whether the block has local attention: of every ``layers / global`` blocks the last is global."""
        globals_ = self.layers - self.local_layers
        return (layer + 1) * globals_ // self.layers == layer * globals_ // self.layers

    def has_experts(self, layer: int) -> bool:
        """Whether the block's feed-forward layer is a mixture of experts."""
        return self.experts > 0 and layer >= self.dense_layers


@dataclass(frozen=True)
class Context:
    """Which tokens of its sequence this process holds, where sequences are split over ``size`` processes.

    One run of tokens each, or, ``balanced``, the r-th run from the start and the r-th from the end, so that under
    causal attention all have the same work.
    """

    rank: int = 0
    size: int = 1
    balanced: bool = False

    def positions(self, tokens: int, device: torch.device | str = "cpu", rank: int | None = None) -> Tensor:
        """``[tokens]`` places in the whole sequence of the tokens held here (or by another rank).

        Examples
        --------
        >>> Context(1, 2).positions(4).tolist(), Context(1, 2, balanced=True).positions(4).tolist()
        ([4, 5, 6, 7], [2, 3, 4, 5])
        """
        rank = self.rank if rank is None else rank
        if not self.balanced:
            return torch.arange(tokens, device=device) + rank * tokens
        half = torch.arange(tokens // 2, device=device)
        return torch.cat([half + rank * (tokens // 2), half + (2 * self.size - 1 - rank) * (tokens // 2)])


def turns(positions_S: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[S, 1, H/2]`` of position · theta^(−2i/H)."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=positions_S.device) / half
    angle_SH = positions_S.float()[:, None] * theta**-exponent
    return angle_SH.cos()[:, None], angle_SH.sin()[:, None]


@lru_cache(maxsize=2)
def _last_turns(context: Context, tokens: int, device: torch.device, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """The same for all blocks of a model, and mostly for the next step; not kept as inference's tensors."""
    with torch.inference_mode(False):
        return turns(context.positions(tokens, device), dim, theta)


def rotate(x_BSNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: pairs (i, i + H/2) turn by the angles of `turns`."""
    a, b = x_BSNH.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x_BSNH.dtype)


def attend(
    q_BSNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, window: int = 0, places: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Causal attention; ``window`` > 0 sees so many tokens back, itself included.

    ``places`` are the positions of queries and keys where they are not 0 … S−1 both.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BSNH, k_BTKH, v_BTKH))
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if places is None and not 0 < window < q.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    if places is None:
        places = (torch.arange(q.shape[2], device=q.device),) * 2
    back_ST = places[0][:, None] - places[1]
    seen_ST = (back_ST >= 0) & (back_ST < window) if window else back_ST >= 0
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen_ST).transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query attention. ``core`` joins queries, keys and values; context parallelism puts its own there."""

    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
        d, h = config.hidden, config.head_dim
        self.q = nn.Linear(d, config.heads * h, bias=False)
        self.k = nn.Linear(d, config.kv_heads * h, bias=False)
        self.v = nn.Linear(d, config.kv_heads * h, bias=False)
        self.o = nn.Linear(config.heads * h, d, bias=False)
        self.q_norm = nn.RMSNorm(h, config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(h, config.norm_eps) if config.qk_norm else None
        self.head_dim = h
        self.window = config.window if config.is_local(layer) else 0
        rotary = not config.positions and (config.global_rope or config.is_local(layer))
        self.theta = config.rope_theta if rotary else None
        self.context = Context()
        self.core: Core = attend

    def forward(self, x_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` to ``[B, S, D]``."""
        q, k, v = (proj(x_BSD).unflatten(-1, (-1, self.head_dim)) for proj in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.theta is not None:
            plain = type(q) is Tensor and not torch.compiler.is_compiling()  # neither traced nor fake
            found = _last_turns if plain else _last_turns.__wrapped__
            cos, sin = found(self.context, q.shape[1], q.device, self.head_dim, self.theta)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return self.o(self.core(q, k, v, self.window).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward layer, each beside a residual connection."""

    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_norm = nn.RMSNorm(config.hidden, config.norm_eps)
        self.feed: FeedForward | Mixture
        if config.has_experts(layer):
            self.feed = Mixture(config.hidden, config.experts, config.top_k, config.expert_ffn, config.shared_ffn,
                                score=config.score, normalise=config.normalise, scale=config.route_scale)  # fmt: skip
        else:
            self.feed = FeedForward(config.hidden, config.ffn, config.gated)
        self.norm_after = config.norm_after

    def forward(self, x_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` to ``[B, S, D]``."""
        if self.norm_after:
            x_BSD = x_BSD + self.attention_norm(self.attention(x_BSD))
            return x_BSD + self.feed_norm(self.feed(x_BSD))
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        return x_BSD + self.feed(self.feed_norm(x_BSD))


class Language(nn.Module):
    """A language model: tokens in, logits of each next token out.

    A stage of a pipeline is this module with some blocks, and with embedding or head set to None.

    Parameters
    ----------
    config : LanguageConfig

    Examples
    --------
    >>> config = LanguageConfig(layers=2, hidden=32, heads=4, ffn=64, vocab=100)
    >>> Language(config)(torch.zeros(2, 5, dtype=torch.int64)).shape
    torch.Size([2, 5, 100])
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.context = Context()
        self.embed: nn.Embedding | None = nn.Embedding(config.vocab, config.hidden)
        self.place = nn.Embedding(config.seq_len, config.hidden) if config.positions else None
        self.blocks = nn.ModuleDict({str(i): Block(config, i) for i in range(config.layers)})
        self.norm: nn.RMSNorm | None = nn.RMSNorm(config.hidden, config.norm_eps)
        self.head: nn.Linear | None = nn.Linear(config.hidden, config.vocab, bias=False)
        self.tie()

    def tie(self) -> None:
        """Let the head have the embedding's matrix, where the model is so made and has both."""
        if self.config.tied and self.embed is not None and self.head is not None:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, S]`` (or, in a later stage, ``[B, S, D]``) to logits ``[B, S, V]`` (or ``[B, S, D]``)."""
        if self.embed is not None:
            tokens_BS = x
            x = self.embed(tokens_BS)
            if self.place is not None:
                x = x + self.place(self.context.positions(tokens_BS.shape[1], tokens_BS.device)[None])
        for block in self.blocks.values():
            x = block(x)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x
