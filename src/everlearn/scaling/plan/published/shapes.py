"""The shape of a model that a row of published runs speaks of, with what it leaves out filled in."""

from __future__ import annotations

import re
from dataclasses import replace

from everlearn.errors import SettingError
from everlearn.scaling.plan.config import ModelShape, load_shape, preset_names
from everlearn.scaling.plan.published.cases import Row, number, told_size


def shape_of(row: Row) -> ModelShape:
    """The model's shape, from a preset of its name or the row's sizes."""
    told = re.sub(r"[^a-z0-9]", "", row["model"].lower().replace("3.1", "3"))  # Llama 3.1 has Llama 3's shapes
    layers, hidden, s = (told_size(row, column) for column in ("layers", "hidden", "seq_len"))
    for name in sorted(preset_names(), key=len, reverse=True):
        shape = load_shape(name)
        if name.replace("-", "") in told and (not layers or shape.layers == layers):
            return replace(shape, seq_len=s or shape.seq_len)
    if not layers or not hidden:
        layers, hidden = _usual(row, layers, hidden)
    heads = told_size(row, "heads") or max(1, hidden // 128)
    shape = ModelShape(
        name=row["model"],
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_divisor(heads, told_size(row, "kv_heads") or heads),
        ffn=told_size(row, "ffn") or 4 * hidden,
        vocab=told_size(row, "vocab") or 51200,
        seq_len=s or 2048,
    )
    total = 1e9 * number(row, "params_b", shape.parameters / 1e9)
    if row.get("kind", "").startswith("moe"):
        return _mixture(row, shape, total)
    return min(_variants(row, shape, total), key=lambda each: abs(each.parameters - total))


def _usual(row: Row, layers: int, hidden: int) -> tuple[int, int]:
    """Blocks and width as is usual for the parameters: 12 l h² of them, 128 wide for each block."""
    active = 1e9 * (number(row, "active_params_b", 0) or number(row, "params_b", 0))
    if active <= 0:
        raise SettingError("layers and hidden are not told, nor parameters, and the model is no preset")
    hidden = hidden or 128 * max(
        1, round((active / (12 * layers)) ** 0.5 / 128 if layers else (active / 12) ** (1 / 3) / 128 ** (2 / 3))
    )
    return layers or max(1, round(active / (12 * hidden**2))), hidden


def _variants(row: Row, shape: ModelShape, total: float) -> list[ModelShape]:
    """Plain and gated, tied and not; where ffn is not told a gated one is as wide as the parameters ask for."""
    variants = [shape, replace(shape, tied=False), replace(shape, gated=True), replace(shape, gated=True, tied=False)]
    if not row.get("ffn"):
        rest = total - replace(shape, ffn=1, tied=False).parameters
        width = int(rest / (3 * shape.hidden * shape.layers) / 64) * 64
        variants.append(replace(shape, gated=True, tied=False, ffn=max(64, width)))
    return variants


def _divisor(heads: int, kv: int) -> int:
    return kv if kv and heads % kv == 0 else heads


def _mixture(row: Row, shape: ModelShape, total: float) -> ModelShape:
    """Experts as the notes tell them, else eight of the width that fits."""
    notes = row.get("notes", "").lower()

    def find(pattern: str) -> int:
        found = re.search(pattern, notes)
        return int(found.group(1)) if found else 0

    experts = find(r"(\d+) (?:routed )?(?:\+ \d+ shared )?experts|(?<!\d)(\d+) routed") or find(r"(\d+) routed")
    top = find(r"(\d+) active") or find(r"top-(\d+)") or 8
    width = find(r"expert (?:hidden )?(\d+)")
    shared = find(r"(\d+) shared")
    dense = find(r"(\d+) dense layer")
    active = 1e9 * number(row, "active_params_b", 0)
    outside = replace(shape, gated=True, tied=False, ffn=1).parameters
    if not active and not (experts and width):
        raise SettingError("experts are not told, nor active parameters to infer them from")
    if not width:
        width = max(64, int((active - outside) / (3 * shape.hidden * shape.layers * (top + shared)) / 64) * 64)
    if not experts:
        experts = max(top, round((total - outside) / (3 * shape.hidden * shape.layers * width) / 8) * 8)
    return replace(
        shape,
        gated=True,
        tied=False,
        experts=experts,
        top_k=top,
        expert_ffn=width,
        shared_ffn=shared * width,
        dense_layers=dense,
    )
