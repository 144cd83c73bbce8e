"""Which remembered windows are worth replaying: their value for the earlier corpus, once the new one has begun to act.

First-order in-run data Shapley values (Wang, Mittal, Song, Jia 2024, arXiv 2406.11011): of all that enters one step of
SGD, a window z contributes η ∇L_z · ∇L_old to the fall of the earlier corpus's loss L_old. Taken where they will be
needed: after a few steps on the new corpus, as in maximally interfered retrieval (arXiv 1908.04742). By a difference of
two forward passes along ∇L_old instead of a gradient for each window:

    v(z) = [L_z(θ + ε g) − L_z(θ − ε g)] / 2ε,    g = ∇L_old / ‖∇L_old‖
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import DataError, SettingError
from everlearn.models.language import Language
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.replay import Replaying
from everlearn.scaling.settings import Settings
from everlearn.scaling.start import model_in

AHEAD, OLD = 10, 4
"""Steps on the new corpus before windows are valued, and batches that estimate ∇L_old."""

_EPSILON = 1e-2  # in units of weights, along g of length 1


def value_memory(settings: Settings, folder: Path) -> None:
    """Value the memory of a run that begins with another's weights, and write ``FOLDER/replay.json``, once.

    Raises
    ------
    SettingError
        If the run does not begin with weights that know the earlier corpus.
    """
    file = folder / "replay.json"
    if file.exists():
        return
    if not settings.start:
        raise SettingError("replay by value looks at the weights that know the earlier corpus; give start")
    data = settings.data
    now, earlier = ([Tokens(token_file(Path(n), folder)) for n in names] for names in (data.train, data.replay))
    model = model_in(Path(settings.start))
    seq_len = settings.train.seq_len or model.config.seq_len
    memory = Replaying(Sampler(now, seq_len, settings.seed, data.weights), earlier, data.replay_share, data.memory)
    values = window_values(model, memory, settings.train.global_batch, settings.optimiser.lr)
    order = values.argsort(descending=True, stable=True)[: max(1, math.ceil(data.kept * len(values)))]
    known = {"best": order.tolist(), "values": [round(v, 6) for v in values.tolist()],
             "sequences": cost(len(values), settings.train.global_batch)}  # fmt: skip
    beside = file.with_name(f".{file.name}")
    beside.write_text(json.dumps(known), encoding="utf-8")
    beside.rename(file)


def chosen(folder: Path) -> list[int]:
    """The slots of the memory that `value_memory` found best."""
    try:
        return [int(slot) for slot in json.loads((folder / "replay.json").read_text(encoding="utf-8"))["best"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'replay.json'} cannot be read ({error}); delete it to value the memory anew"
        ) from error


def cost(memory: int, batch: int) -> float:
    """What valuing costs, in sequences trained on: a forward is a third of one."""
    return (AHEAD + OLD) * batch + memory * 2 / 3


def window_values(model: Language, memory: Replaying, batch: int, lr: float) -> Tensor:
    """``[memory]`` values, above 0 where learning a window again lowers the earlier corpus's loss.

    Parameters
    ----------
    model : Language
        As the earlier corpus left it; it is changed.
    memory : Replaying
    batch : int
        Sequences of a step.
    lr : float
        Of the steps ahead, by AdamW.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(AHEAD):
        optimiser.zero_grad(set_to_none=True)
        losses(model, *memory.sampler.batch(step, batch, slice(0, batch))).mean().backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    slots = range(sum(memory.old))  # those beyond the memory are of windows that are not in it, while there are any
    old = list(slots[memory.size : memory.size + OLD * batch] or slots[: OLD * batch])
    for k in range(0, len(old), batch):
        (losses(model, *memory.remembered(old[k : k + batch])).sum() / len(old)).backward()
    g = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    norm = torch.stack([each.norm() for each in g]).norm().clamp(min=torch.finfo(torch.float32).tiny)
    found = []
    with torch.no_grad():
        for shift in (_EPSILON, -2 * _EPSILON):
            for p, each in zip(model.parameters(), g):
                p.add_(each, alpha=shift / float(norm))
            parts = [range(k, min(k + batch, memory.size)) for k in range(0, memory.size, batch)]
            found.append(torch.cat([losses(model, *memory.remembered(part)) for part in parts]))
    return (found[0] - found[1]) / (2 * _EPSILON)


def losses(model: Language, tokens: Tensor, labels: Tensor) -> Tensor:
    """``[n]`` mean cross-entropy of each sequence."""
    logits = model(tokens).float()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").reshape(labels.shape).mean(1)
