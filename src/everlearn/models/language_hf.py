"""Weights and configuration to and from Hugging Face's format: Llama, Qwen 3, EXAONE 4 and EXAONE MoE.

A folder with ``config.json`` and ``model.safetensors`` (or shards), as transformers, vLLM and others read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from everlearn.errors import ModelError
from everlearn.models.language import Language, LanguageConfig
from everlearn.models.mixture import Mixture

# ours, theirs, and whether theirs is the other way round, for one block
_BLOCK = {
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.o.weight": "self_attn.o_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "feed.gate.weight": "mlp.gate_proj.weight",
    "feed.up.weight": "mlp.up_proj.weight",
    "feed.down.weight": "mlp.down_proj.weight",
    "feed.router.weight": "mlp.gate.weight",
    "feed.router.bias": "mlp.gate.e_score_correction_bias",
    "feed.shared.gate.weight": "mlp.shared_experts.gate_proj.weight",
    "feed.shared.up.weight": "mlp.shared_experts.up_proj.weight",
    "feed.shared.down.weight": "mlp.shared_experts.down_proj.weight",
}
_NORMS = {"attention_norm.weight": "input_layernorm.weight", "feed_norm.weight": "post_attention_layernorm.weight"}
_NORMS_AFTER = {
    "attention_norm.weight": "post_attention_layernorm.weight",
    "feed_norm.weight": "post_feedforward_layernorm.weight",
}
_OUTSIDE = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_EXPERT = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def class_of(config: LanguageConfig) -> str:
    """The ``model_type`` that computes what this model does.

    Raises
    ------
    ModelError
        If there is none.

    Examples
    --------
    >>> class_of(LanguageConfig(layers=2, hidden=64, heads=4, ffn=128, vocab=256))
    'llama'
    """
    nope = (
        not config.global_rope or not config.local_layers
    )  # global blocks without rotary positions, where there are local
    if config.positions or not config.gated:
        raise ModelError("learned positions and GELU have no Hugging Face class here; rotary positions and SwiGLU have")
    if config.experts:
        shared = config.shared_ffn > 0 and config.shared_ffn % config.expert_ffn == 0
        if config.qk_norm and not config.norm_after and config.score == "sigmoid" and shared and nope:
            return "exaone_moe"
        raise ModelError(
            "EXAONE MoE has QK norm, sigmoid scores and shared experts as wide as the routed; this model not"
        )
    if config.norm_after and config.qk_norm and nope:
        return "exaone4"
    if config.norm_after or config.local_layers:
        raise ModelError(
            "norms behind layers or local attention without all of EXAONE 4 have no Hugging Face class here"
        )
    return "qwen3" if config.qk_norm else "llama"


def to_hf(config: LanguageConfig) -> dict[str, Any]:
    """The ``config.json`` of a model."""
    kind = class_of(config)
    names = {"llama": "Llama", "qwen3": "Qwen3", "exaone4": "Exaone4", "exaone_moe": "ExaoneMoe"}
    known: dict[str, Any] = {
        "architectures": [f"{names[kind]}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "float32",
    }
    if kind.startswith("exaone"):
        types = {True: "sliding_attention", False: "full_attention"}
        known["layer_types"] = [types[config.is_local(i)] for i in range(config.layers)]
        known["sliding_window"] = config.window if config.local_layers else None
        known["sliding_window_pattern"] = "".join("LG"[not config.is_local(i)] for i in range(config.layers))
    if kind == "exaone_moe":
        known |= {
            "num_experts": config.experts,
            "num_experts_per_tok": config.top_k,
            "moe_intermediate_size": config.expert_ffn,
            "num_shared_experts": config.shared_ffn // config.expert_ffn,
            "first_k_dense_replace": config.dense_layers,
            "mlp_layer_types": ["sparse" if config.has_experts(i) else "dense" for i in range(config.layers)],
            "norm_topk_prob": config.normalise,
            "routed_scaling_factor": config.route_scale,
            "n_group": 1,
            "topk_group": 1,
        }
    return known


def from_hf(known: dict[str, Any]) -> LanguageConfig:
    """The configuration that a ``config.json`` describes.

    Raises
    ------
    ModelError
        If its class is unknown, or it has a feature that this model has not.
    """
    kind = known.get("model_type")
    if kind not in ("llama", "qwen3", "exaone4", "exaone_moe"):
        raise ModelError(f"model_type is {kind!r}; expected llama, qwen3, exaone4 or exaone_moe")
    rope = known.get("rope_parameters") or known.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ModelError(f"scaled rotary positions ({rope.get('rope_type', rope.get('type'))}) are not known here")
    if known.get("attention_bias") or known.get("mlp_bias") or known.get("n_group", 1) != 1:
        raise ModelError("biases of linear layers and groups of experts are not known here")
    layers = known["num_hidden_layers"]
    types = known.get("layer_types") or []
    window = known.get("sliding_window") or 0
    local = types.count("sliding_attention") if window and kind.startswith("exaone") else 0
    shared = known.get("num_shared_experts", 0) * known.get("moe_intermediate_size", 0)
    experts = kind == "exaone_moe"
    config = LanguageConfig(
        layers=layers,
        hidden=known["hidden_size"],
        heads=known["num_attention_heads"],
        ffn=known["intermediate_size"],
        vocab=known["vocab_size"],
        seq_len=known.get("max_position_embeddings", 2048),
        kv_heads=known.get("num_key_value_heads") or 0,
        head_dim=known.get("head_dim") or 0,
        tied=bool(known.get("tie_word_embeddings", False)),
        window=window if local else 0,
        local_layers=local,
        global_rope=not local,
        qk_norm=kind != "llama",
        norm_after=kind == "exaone4",
        norm_eps=known.get("rms_norm_eps", 1e-6),
        rope_theta=float(known.get("rope_theta") or rope.get("rope_theta", 1e4)),
        experts=known["num_experts"] if experts else 0,
        top_k=known["num_experts_per_tok"] if experts else 0,
        expert_ffn=known["moe_intermediate_size"] if experts else 0,
        shared_ffn=shared if experts else 0,
        dense_layers=_dense_layers(known, layers) if experts else 0,
        normalise=known.get("norm_topk_prob", True),
        route_scale=known.get("routed_scaling_factor", 1.0),
    )
    expected = ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(layers)]
    if local and types != expected:
        raise ModelError("local and global blocks are not spread evenly with a global one last; that is not known here")
    return config


def _dense_layers(known: dict[str, Any], layers: int) -> int:
    kinds = known.get("mlp_layer_types") or []
    first = known.get("first_k_dense_replace", 0)
    if kinds:
        first = kinds.index("sparse") if "sparse" in kinds else layers
        if "dense" in kinds[first:]:
            raise ModelError("dense blocks behind mixtures are not known here")
    return int(first)


def names(config: LanguageConfig) -> dict[str, str]:
    """Our names of all tensors but routed experts, to theirs."""
    norms = _NORMS_AFTER if config.norm_after else _NORMS
    model = Language.__new__(Language)  # no tensors are made: names only
    with torch.device("meta"):
        model.__init__(config)  # type: ignore[misc]
    found = {}
    held = [name for name, _ in model.named_parameters()] + [n for n, _ in model.named_buffers() if n.endswith(".bias")]
    for name in held:
        if name in _OUTSIDE:
            found[name] = _OUTSIDE[name]
        elif ".experts." not in name:
            _, layer, rest = name.split(".", 2)
            found[name] = f"model.layers.{layer}.{(_BLOCK | norms)[rest]}"
    return found


def tensors_to_hf(model: Language) -> dict[str, Tensor]:
    """All tensors by their Hugging Face names."""
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {theirs: ours[name].detach() for name, theirs in names(model.config).items()}
    for layer, experts in _mixtures(model):
        for name, theirs in _EXPERT.items():
            for e, weight in enumerate(getattr(experts, name).detach()):
                found[f"model.layers.{layer}.mlp.experts.{e}.{theirs}.weight"] = weight.T
    return {name: tensor.contiguous() for name, tensor in found.items()}


def load_tensors(model: Language, tensors: dict[str, Tensor]) -> None:
    """Fill a model from tensors by their Hugging Face names.

    Raises
    ------
    ModelError
        If one is missing, left over, or of another shape.
    """
    tensors = dict(tensors)
    if model.config.tied:
        tensors.pop("lm_head.weight", None)
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    pairs: list[tuple[str, Tensor]] = [(theirs, ours[name]) for name, theirs in names(model.config).items()]
    for layer, experts in _mixtures(model):
        for name, theirs in _EXPERT.items():
            held = getattr(experts, name)
            pairs += [(f"model.layers.{layer}.mlp.experts.{e}.{theirs}.weight", held[e].T) for e in range(len(held))]
    with torch.no_grad():
        for name, mine in pairs:
            if name not in tensors:
                raise ModelError(f"the weights have no {name}; they are of another model than config.json says")
            given = tensors.pop(name)
            if given.shape != mine.shape:
                raise ModelError(f"{name} is {tuple(given.shape)}; config.json asks for {tuple(mine.shape)}")
            mine.copy_(given)
    if left := [name for name in tensors if not name.endswith("rotary_emb.inv_freq")]:
        raise ModelError(f"the weights have {left[0]}, which the model of config.json has not")


def _mixtures(model: Language) -> Iterator[tuple[str, Any]]:
    for layer, block in model.blocks.items():
        if isinstance(block.feed, Mixture):
            yield layer, block.feed.experts


def save(model: Language, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    known = to_hf(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors_to_hf(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Language:
    """Read a model from a folder in Hugging Face's format.

    Raises
    ------
    ModelError
        If files are missing or damaged, or the model is of a kind unknown here.
    """
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = Language(from_hf(known))
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder} has no .safetensors file")
        tensors: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, "pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} is not a model in Hugging Face's format: {type(error).__name__} {error}") from error
    load_tensors(model, tensors)
    return model
