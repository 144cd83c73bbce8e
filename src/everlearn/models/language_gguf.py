"""Weights and tokenizer out of a GGUF file of a Llama: weights of four or eight bits become float32.

Needs the package ``gguf``; for the tokenizer ``tokenizers`` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.errors import ModelError
from everlearn.models.language import Language, LanguageConfig

_OUTSIDE = {"token_embd.weight": "embed.weight", "output_norm.weight": "norm.weight", "output.weight": "head.weight"}
_BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.q",
    "attn_k": "attention.k",
    "attn_v": "attention.v",
    "attn_output": "attention.o",
    "ffn_norm": "feed_norm",
    "ffn_gate": "feed.gate",
    "ffn_up": "feed.up",
    "ffn_down": "feed.down",
}


def load(file: Path) -> Language:
    """Read a model.

    Raises
    ------
    ModelError
        If the file is missing or damaged, or its architecture is not Llama's.
    """
    reader, gguf = _open(file)
    model = Language(config_of(reader, file))
    ours = dict(model.named_parameters())
    left = set(ours)
    with torch.no_grad():
        for tensor in reader.tensors:
            name = name_of(tensor.name)
            if name is None or (name not in ours and tensor.name == "rope_freqs.weight"):
                continue
            if name not in ours:
                raise ModelError(f"{file} has a tensor {tensor.name}, which a Llama has not")
            weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
            if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
                weight = halves(weight, model.config.head_dim)
            if weight.shape != ours[name].shape:
                found, expected = tuple(weight.shape), tuple(ours[name].shape)
                raise ModelError(f"{file}: {tensor.name} is {found}, expected {expected}")
            ours[name].copy_(weight)
            left.discard(name)
    if left:
        raise ModelError(f"{file} lacks {sorted(left)[0]}; the file is not whole")
    return model.eval()


def config_of(reader: Any, file: Path) -> LanguageConfig:
    """The configuration that a file's header describes."""

    def value(name: str, default: Any = None) -> Any:
        field = reader.fields.get(name)
        return default if field is None else field.contents()

    kind = value("general.architecture")
    if kind != "llama":
        raise ModelError(f"{file} is of architecture {kind!r}; expected 'llama'")
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors}
    if "token_embd.weight" not in shapes:
        raise ModelError(f"{file} lacks token_embd.weight; the file is not whole")
    hidden, vocab = shapes["token_embd.weight"]  # GGUF counts dimensions from the innermost
    heads = int(value("llama.attention.head_count"))
    return LanguageConfig(
        layers=int(value("llama.block_count")),
        hidden=hidden,
        heads=heads,
        kv_heads=int(value("llama.attention.head_count_kv", heads)),
        head_dim=int(value("llama.attention.key_length", hidden // heads)),
        ffn=int(value("llama.feed_forward_length")),
        vocab=vocab,
        seq_len=int(value("llama.context_length")),
        tied="output.weight" not in shapes,
        norm_eps=round(float(value("llama.attention.layer_norm_rms_epsilon")), 12),
        rope_theta=float(value("llama.rope.freq_base", 10000.0)),
    )


def name_of(theirs: str) -> str | None:
    """Our name of a tensor, or None.

    Examples
    --------
    >>> name_of("blk.3.ffn_up.weight"), name_of("rope_freqs.weight")
    ('blocks.3.feed.up.weight', None)
    """
    if theirs in _OUTSIDE:
        return _OUTSIDE[theirs]
    parts = theirs.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _BLOCK:
        return f"blocks.{parts[1]}.{_BLOCK[parts[2]]}.{parts[3]}"
    return None


def halves(weight: Tensor, head_dim: int) -> Tensor:
    """GGUF keeps the rotary pairs of a head's rows side by side; here the second half follows the first.

    Examples
    --------
    >>> halves(torch.tensor([[0], [2], [1], [3]]), 4).flatten().tolist()
    [0, 1, 2, 3]
    """
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def tokenizer_of(file: Path) -> Any:
    """The byte-level byte-pair tokenizer in a file, as Hugging Face's ``tokenizers.Tokenizer``."""
    reader, _ = _open(file)
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise ModelError("the tokenizer of a GGUF file needs `pip install everlearn[text]`") from error
    fields = reader.fields
    if fields["tokenizer.ggml.model"].contents() != "gpt2":
        raise ModelError(
            f"{file} has a {fields['tokenizer.ggml.model'].contents()!r} tokenizer; expected byte-level pairs"
        )
    words, kinds = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"].contents()]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    digits = fields.get("tokenizer.ggml.pre")
    single = digits is not None and digits.contents() in ("smollm", "starcoder", "refact", "command-r")
    split = [pre_tokenizers.Digits(individual_digits=True)] if single else []
    inner.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(w, special=True) for w, kind in zip(words, kinds) if kind == 3])  # control
    return inner


def _open(file: Path) -> tuple[Any, Any]:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise ModelError("GGUF files need `pip install gguf`") from error
    if not file.is_file():
        raise ModelError(f"there is no file {file}")
    try:
        return gguf.GGUFReader(file), gguf
    except (ValueError, IndexError, OSError, KeyError) as error:
        raise ModelError(f"{file} is not a whole GGUF file: {str(error).splitlines()[0]}") from error
