"""Parity: every layout that N processes allow, against one process, by loss, gradient norm and weights.

Steps are SGD's, since Adam and clipping hide a gradient of the wrong size. Labels are masked unevenly, so that a mean
taken over processes rather than tokens shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling.engine import Engine
from everlearn.scaling.mesh import build_mesh, check, complete
from everlearn.scaling.settings import Layout

TOLERANCE = 1e-4
SEQUENCES, STEPS, LR = 8, 3, 0.3
_SMALL: dict[str, Any] = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "vocab": 64, "seq_len": 16}
MODELS = {
    "dense": LanguageConfig(**_SMALL, tied=True, qk_norm=True),
    "moe": LanguageConfig(**_SMALL, experts=4, top_k=2, expert_ffn=16, shared_ffn=16, dense_layers=1,
                          window=6, local_layers=3, global_rope=False, route_scale=2.5),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """How far a layout is from one process: largest relative error of loss, gradient norm and weights' movement."""

    model: str
    layout: str
    loss: float
    norm: float
    weights: float
    error: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all are numbers within the tolerance."""
        return not self.error and all(e <= TOLERANCE for e in (self.loss, self.norm, self.weights))  # NaN is not


@dataclass(frozen=True)
class Trace:
    """Losses and gradient norms of the steps; the weights before and after, by name."""

    losses: list[float]
    norms: list[float]
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def layouts(processes: int, model: str = "dense", short: bool = False) -> list[Layout]:
    """Every layout to compare.

    Parameters
    ----------
    processes : int
    model : {"dense", "moe"}
    short : bool
        One of each kind only.

    Examples
    --------
    >>> [layout.words for layout in layouts(2, short=True)]
    ['dp2 fsdp', 'cp2 gather', 'tp2 sp', 'pp2 1f1b']
    """
    found = []
    sizes = [n for n in range(1, processes + 1) if processes % n == 0]
    for pp in sizes:
        for tp in sizes:
            for cp in sizes:
                if processes % (pp * tp * cp) == 0:
                    base = {
                        "dp": processes // (pp * tp * cp),
                        "tp": tp,
                        "pp": pp,
                        "cp": cp,
                        "micro_batch": 1 if pp > 1 else 2,
                    }
                    found += _variants(base, model, short)
    kept = []
    for layout in found:
        try:
            check(complete(layout, processes), MODELS[model], MODELS[model].seq_len, SEQUENCES)
            kept.append(layout)
        except SettingError:
            continue  # what the model does not divide by
    return sorted(kept, key=lambda layout: sum(n > 1 for n in (layout.dp, layout.tp, layout.pp, layout.cp, layout.ep)))


def _variants(base: dict[str, int], model: str, short: bool) -> list[Layout]:
    """A layout with the choices that matter to it, one at a time."""
    changes: list[dict[str, Any]] = [{}]
    if not short:
        single = sum(n > 1 for name, n in base.items() if name != "micro_batch") == 1
        if base["dp"] > 1:
            changes += [{"zero": 0}, {"zero": 2}] + ([{"shard": 2}] if base["dp"] > 2 else [])
        if base["tp"] > 1:
            changes += [{"sequence_parallel": False}]
        if base["cp"] > 1:
            changes += [{"context": "ulysses"}]
        if base["pp"] > 1:
            changes += [{"schedule": name, "vpp": 2, "zero": 0} for name in ("interleaved", "zero-bubble")]
            changes += [{"schedule": "zbv", "zero": 0}] + ([{"schedule": "gpipe"}] if single else [])
        if single:
            changes += [{"recompute": "full"}, {"recompute": "selective"}]
            changes += [{"exact": True}] if base["dp"] > 1 else []
    made = [Layout.model_validate(base | change) for change in changes]
    if model == "moe":
        parts = base["dp"] * base["cp"]
        spread = [Layout.model_validate(base | {"ep": ep}) for ep in range(2, parts + 1) if parts % ep == 0]
        return made[:1] + spread if not short else (spread[:1] or made[:1])
    return made


def trace(config: LanguageConfig, layout: Layout, world: int, inject: float = 1.0) -> Trace:
    """A few SGD steps in a layout; ``inject`` multiplies every gradient, as a fault would."""
    torch.use_deterministic_algorithms(False)
    mesh = build_mesh(layout, world)
    engine = Engine.build(config, mesh, seed=0)
    optimiser = torch.optim.SGD(engine.parameters(), LR)
    before = _whole(engine)
    tokens, labels = batch(config)
    share = SEQUENCES // mesh.layout.dp
    mine = slice(mesh.rank("batch") * share, (mesh.rank("batch") + 1) * share)
    losses, norms = [], []
    for _ in range(STEPS):
        losses.append(float(engine.forward_backward(tokens[mine], labels[mine])))
        if inject != 1.0:
            for parameter in engine.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(inject)
        norms.append(float(engine.gradient_norm()))
        optimiser.step()
        engine.balance(0.0)
        engine.zero_grad()
    return Trace(losses, norms, before, _whole(engine))


def batch(config: LanguageConfig) -> tuple[Tensor, Tensor]:
    """Random tokens and labels; sequence i has its first i labels masked."""
    drawn = torch.randint(config.vocab, (SEQUENCES, config.seq_len + 1), generator=torch.Generator().manual_seed(0))
    labels = drawn[:, 1:].clone()
    labels[torch.arange(config.seq_len) < torch.arange(SEQUENCES)[:, None]] = -100
    return drawn[:, :-1], labels


def compare(reference: Trace, other: Trace) -> tuple[float, float, float]:
    """Largest relative errors of loss and gradient norm, and of each tensor's movement (or a hundredth of its size)."""

    def relative(a: list[float], b: list[float]) -> float:
        return _largest([abs(x - y) / abs(y) for x, y in zip(a, b)])

    weights = []
    for name, after in other.after.items():
        moved = reference.after[name] - reference.before[name]
        same_start = (other.before[name] - reference.before[name]).norm()
        off = (after - reference.after[name]).norm() + same_start
        scale = torch.maximum(moved.norm(), 1e-2 * reference.after[name].norm())  # below it float32 rounds
        weights.append(float(off / scale))
    return relative(other.losses, reference.losses), relative(other.norms, reference.norms), _largest(weights)


def _largest(errors: list[float]) -> float:
    """The largest error; NaN, which `max` may pass over, is infinite."""
    return max(error if error == error else math.inf for error in errors)


def _whole(engine: Engine) -> dict[str, Tensor]:
    with torch.no_grad():
        named = engine.named_parameters().items()
        return {name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in named}
