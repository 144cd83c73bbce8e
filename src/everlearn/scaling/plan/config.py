"""The shape of a model: what the planner must know of it, its parameters and its floating-point operations."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from everlearn.errors import SettingError
from everlearn.kinds import kind_of

LARGEST = 10**9
PRESETS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class ModelShape:
    """A decoder of ``layers`` blocks; zeros stand for "as usual" or "none".

    Parameters
    ----------
    name : str
        What a person calls it.
    layers, hidden, heads, ffn, vocab, seq_len : int
        Blocks, width, attention heads, width of the dense feed-forward layer, vocabulary, tokens of a sequence.
    kv_heads, head_dim : int
        Grouped-query attention; by default as many as heads, and hidden / heads.
    gated, tied, positions : bool
        SwiGLU (three matrices), shared input and output embedding, learned positions as in GPT.
    window, local_layers : int
        Width of local attention and the number of blocks that have it.
    q_rank, kv_rank, rope_dim, value_dim : int
        Multi-head latent attention: ranks of queries and of keys/values, rotary and value dimensions of a head.
    experts, top_k, shared_ffn, expert_ffn, dense_layers, latent : int
        Routed experts, experts of a token, width of all shared experts together, width of one expert, blocks that keep
        the dense feed-forward layer, and the width in which experts work where it is not the model's.
    attention_layers, ffn_layers, mamba_layers : int
        Hybrids: how many of the blocks hold attention, a feed-forward layer, a Mamba-2 mixer.
    mamba_heads, mamba_head_dim, mamba_state, mamba_groups : int
        Shape of the Mamba-2 mixer.
    mtp : int
        Extra blocks that predict further tokens; each adds a pass through the output embedding.

    Examples
    --------
    >>> gpt3 = ModelShape("gpt3", layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200, positions=True)
    >>> round(gpt3.parameters / 1e9, 1)
    174.6
    """

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    seq_len: int = 2048
    kv_heads: int = 0
    head_dim: int = 0
    gated: bool = False
    tied: bool = True
    positions: bool = False
    window: int = 0
    local_layers: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    experts: int = 0
    top_k: int = 0
    shared_ffn: int = 0
    expert_ffn: int = 0
    dense_layers: int = 0
    latent: int = 0
    attention_layers: int = -1
    ffn_layers: int = -1
    mamba_layers: int = 0
    mamba_heads: int = 0
    mamba_head_dim: int = 0
    mamba_state: int = 0
    mamba_groups: int = 0
    mtp: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "vocab", "seq_len"):
            if getattr(self, name) < 1:
                raise SettingError(f"model {self.name}: {name} is {getattr(self, name)}; expected 1 or more")
        for name, kind in self.__dataclass_fields__.items():
            least = -1 if name in ("attention_layers", "ffn_layers") else 0
            if kind.type == "int" and not least <= getattr(self, name) <= LARGEST:
                raise SettingError(f"model {self.name}: {name} is {getattr(self, name)}; expected 0 to {LARGEST:,}")
        for name in ("attention_layers", "ffn_layers", "mamba_layers", "dense_layers", "local_layers"):
            if getattr(self, name) > self.layers:
                found = f"{name} is {getattr(self, name)} of {self.layers} layers"
                raise SettingError(f"model {self.name}: {found}; expected as many or fewer")
        if not self.head_dim and self.hidden < self.heads:
            raise SettingError(
                f"model {self.name}: {self.heads} heads of hidden {self.hidden} have no width; give head_dim, or "
                "fewer heads"
            )
        set_ = object.__setattr__
        set_(self, "kv_heads", self.kv_heads or self.heads)
        set_(self, "head_dim", self.head_dim or self.hidden // self.heads)
        set_(self, "value_dim", self.value_dim or self.head_dim)
        set_(self, "attention_layers", self.layers if self.attention_layers < 0 else self.attention_layers)
        set_(self, "ffn_layers", self.layers if self.ffn_layers < 0 else self.ffn_layers)
        if self.experts and not (0 < self.top_k <= self.experts and self.expert_ffn > 0):
            found = f"top_k {self.top_k}, expert_ffn {self.expert_ffn}"
            raise SettingError(f"model {self.name}: {self.experts} experts with {found}; expected both 1 or more")
        if self.heads % self.kv_heads:
            raise SettingError(f"model {self.name}: {self.heads} heads do not divide by {self.kv_heads} kv_heads")
        if not self.experts and self.ffn < 1:
            raise SettingError(f"model {self.name}: ffn is {self.ffn}; expected 1 or more, or experts")

    # how many blocks hold what

    @property
    def moe_layers(self) -> int:
        """Blocks with routed experts."""
        return self.ffn_layers - self.dense_layers if self.experts else 0

    @property
    def dense_ffn_layers(self) -> int:
        """Blocks with a dense feed-forward layer."""
        return self.ffn_layers - self.moe_layers

    @property
    def matrices(self) -> int:
        """Matrices of a feed-forward layer: 3 if gated, else 2."""
        return 3 if self.gated else 2

    # parameters

    @property
    def attention_parameters(self) -> int:
        """Weights of one attention layer."""
        h, a, d = self.hidden, self.heads, self.head_dim
        if self.kv_rank:
            query = (
                h * self.q_rank + self.q_rank * a * (d + self.rope_dim) if self.q_rank else h * a * (d + self.rope_dim)
            )
            keys = h * (self.kv_rank + self.rope_dim) + self.kv_rank * a * (d + self.value_dim)
            return query + keys + a * self.value_dim * h
        return h * d * (a + 2 * self.kv_heads) + a * d * h

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert."""
        return self.matrices * (self.latent or self.hidden) * self.expert_ffn

    @property
    def shared_parameters(self) -> int:
        """Weights of a mixture layer that every token uses: router, shared experts, latent projections."""
        return (
            self.hidden * self.experts + self.matrices * self.hidden * self.shared_ffn + 2 * self.hidden * self.latent
        )

    @property
    def mamba_inner(self) -> int:
        """Width of the Mamba-2 mixer."""
        return self.mamba_heads * self.mamba_head_dim

    @property
    def mamba_parameters(self) -> int:
        """Weights of one Mamba-2 mixer."""
        inner, state = self.mamba_inner, 2 * self.mamba_groups * self.mamba_state
        return self.hidden * (2 * inner + state + self.mamba_heads) + 4 * (inner + state) + inner * self.hidden

    @property
    def norm_parameters(self) -> int:
        """Norms and biases of a block: 13 h in GPT, 2 h without biases."""
        return (13 if self.positions else 2) * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Input embedding with learned positions, without the output embedding."""
        return self.vocab * self.hidden + (self.seq_len * self.hidden if self.positions else 0)

    def _total(self, experts: int) -> int:
        mtp = self.mtp * (self.attention_parameters + 2 * self.hidden**2)
        ffn = self.matrices * self.hidden * self.ffn
        mixture = self.shared_parameters + experts * self.expert_parameters
        blocks = (
            self.attention_layers * self.attention_parameters
            + self.dense_ffn_layers * ffn
            + (self.moe_layers + (self.mtp if self.experts else 0)) * (mixture if self.experts else 0)
            + self.mamba_layers * self.mamba_parameters
            + self.layers * self.norm_parameters
        )
        head = 0 if self.tied else self.vocab * self.hidden
        return blocks + mtp + self.embedding_parameters + head

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self._total(self.experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that a token uses."""
        return self._total(self.top_k)

    # floating-point operations

    def attended(self, causal: bool = False) -> float:
        """Tokens that a query sees, summed over attention layers; unless causal the whole sequence, as is custom."""
        full = self.seq_len / 2 if causal else self.seq_len
        near = min(self.window, full) if self.window else full
        return (self.attention_layers - self.local_layers) * full + self.local_layers * near

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs of a token, forward and backward, attention over the whole sequence: 6 N' + 12 L H Q T.

        N' counts what multiplies: not the input embedding, norms or biases (Narayanan et al. 2021, appendix; Chowdhery
        et al. 2022, appendix B, differ by the input embedding only).
        """
        return 3 * self.forward_flops()

    def forward_flops(self, causal: bool = False) -> float:
        """FLOPs of one token forward."""
        mixture = self.shared_parameters + self.top_k * self.expert_parameters if self.experts else 0
        weights = (
            (self.attention_layers + self.mtp) * self.attention_parameters
            + self.dense_ffn_layers * self.matrices * self.hidden * self.ffn
            + (self.moe_layers + (self.mtp if self.experts else 0)) * mixture
            + self.mamba_layers * self.mamba_parameters
            + (1 + self.mtp) * self.vocab * self.hidden
            + self.mtp * 2 * self.hidden**2
        )
        qk = self.head_dim + self.rope_dim
        attention = 2 * self.attended(causal) * self.heads * (qk + self.value_dim)
        scan = 6 * self.mamba_layers * self.mamba_inner * self.mamba_state
        return 2 * weights + attention + scan


def load_shape(name: str | Path, **changes: Any) -> ModelShape:
    """Read a shape from a TOML file, or from a preset by name.

    Parameters
    ----------
    name : str or Path
        A file with a ``[model]`` table (or its keys at the top), or a preset: `preset_names` lists them.
    changes
        Fields to set otherwise, ``seq_len=8192``.

    Raises
    ------
    SettingError
        If there is no such file or preset, or the table makes no sense.

    Examples
    --------
    >>> round(load_shape("dense-1t").parameters / 1e9)
    1008
    """
    path = Path(name)
    if path.suffix != ".toml" or not path.exists():
        path = PRESETS / f"{str(name).lower()}.toml"
    if not path.exists():
        if Path(name).is_dir():
            such = f", such as {Path(name) / 'config.toml'}" if kind_of(Path(name)) == "pretraining" else ""
            raise SettingError(f"{name} is a directory; expected a TOML file with [model]{such}, or a preset")
        near = get_close_matches(str(name).lower(), preset_names(), 3, 0.4) or preset_names()
        raise SettingError(
            f"no model file or preset {str(name)!r}; give a .toml file or a preset such as {', '.join(near)}"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{path.name} is not readable TOML: {error}") from None
    model = table.get("model", table)
    if not isinstance(model, dict):
        raise SettingError(f"{path.name}: model is {model!r}; expected a table [model]")
    return shape_from(model, path.stem, **changes)


def shape_from(table: dict[str, Any], name: str, **changes: Any) -> ModelShape:
    """A shape from a table of its fields."""
    known = {field.name: field.type for field in fields(ModelShape)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise SettingError(f"{name}: unknown model setting {unknown[0]!r}; known are {', '.join(known)}")
    missing = sorted({"layers", "hidden", "heads", "vocab"} - set(table))
    if missing:
        raise SettingError(
            f"{name}: the model's {missing[0]} is missing; a shape needs layers, hidden, heads and vocab"
        )
    for key, value in table.items():
        kind = {"str": str, "bool": bool}.get(str(known[key]), int)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise SettingError(f"{name}: {key} is {value!r}; expected {kind.__name__}")
    values: dict[str, Any] = {"name": name, "ffn": 0} | table
    return replace(ModelShape(**values), **changes) if changes else ModelShape(**values)


def preset_names() -> list[str]:
    """Names of the shapes that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))
