"""The state of a learner that several processes share: one state for all, and each process's part of it again.

The parts of memory are put together in the order of class, step and id. So the state is one that a single process can
read; what beside it begins with ``shares`` says which process had which sample where, so that as many processes go on
to the same bits. Another number of processes is dealt the samples of every class in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from everlearn.errors import RunError
from everlearn.learners.slots import rows_of
from everlearn.learners.state import state_of

if TYPE_CHECKING:
    from everlearn.learners.learner import Learner

State = dict[str, Tensor]


def collect(learner: Learner) -> State | None:
    """The state of all processes together, at process 0; None elsewhere. All must call it."""
    state = state_of(learner)
    group = learner.group
    if group.alone:
        return state
    told = {name: t for name, t in state.items() if name.startswith(("memory.", "learner.generator"))}
    told |= {name: t for name, t in state.items() if name.startswith("rule.") and not _is_common(learner, name[5:])}
    told["weights"] = torch.stack([t.double().sum().cpu() for t in _weights(state)])
    written = save({name: t.detach().cpu().contiguous() for name, t in told.items()})
    parts = group.collect(written)
    return None if parts is None else _joined(learner, state, [load(part) for part in parts])


def deal(state: State, learner: Learner) -> State:
    """This process's part of a state, for a learner built with the same settings by any number of processes."""
    group = learner.group
    whole = {name: t for name, t in state.items() if not name.startswith("shares.")}
    if group.alone:
        return whole
    if int(state.get("shares.count", torch.tensor(1))) == group.size:
        part = _beginning(state, f"shares.{group.rank}.")
        slots = part.pop("slots")
    else:
        slots = _in_order(whole)[group.rank :: group.size]
        capacity, _, offered, classes = whole["memory.known"].tolist()
        known = torch.tensor([group.share(capacity), len(slots), group.share(offered), classes])
        part = {"memory.known": known, "memory.places": _places(whole["memory.targets"][slots])}
        part["learner.generator"] = _generator(whole["learner.generator"], group.rank, group.size)
        own = {name: t for name, t in _beginning(whole, "rule.").items() if name.startswith(learner.own)}
        part |= {f"rule.{name}": t for name, t in learner.deal_own(own).items()}
    dealt = {name: t for name, t in whole.items() if not name.startswith(tuple(f"rule.{own}" for own in learner.own))}
    return dealt | rows_of(whole, learner, slots) | part


def _joined(learner: Learner, state: State, parts: list[State]) -> State:
    """One state out of process 0's own and what all have told."""
    for rank, part in enumerate(parts):
        if not torch.equal(part["weights"], parts[0]["weights"]):
            raise RunError(f"the weights of rank {rank} are not those of rank 0; go on from the last checkpoint")
    whole = dict(state)
    held = {name: torch.cat([part[f"memory.{name}"] for part in parts]) for name in ("targets", "ids", "steps")}
    order = torch.from_numpy(np.lexsort([held[name].numpy() for name in ("ids", "steps", "targets")]))
    whole |= {f"memory.{name}": t[order] for name, t in held.items()}
    pictures = [part["memory.inputs"] for part in parts if len(part["memory.targets"])]
    whole["memory.inputs"] = torch.cat(pictures)[order] if pictures else parts[0]["memory.inputs"]
    known = torch.stack([part["memory.known"] for part in parts])
    whole["memory.known"] = torch.cat([known[:, :3].sum(0), known[:, 3:].amax(0)])
    whole["memory.places"] = _places(whole["memory.targets"])
    whole["shares.count"] = torch.tensor(len(parts))
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    for rank, slots in enumerate(position.split(known[:, 1].tolist())):
        whole[f"shares.{rank}.slots"] = slots.clone()
        for name in ("memory.places", "memory.known", "learner.generator"):
            whole[f"shares.{rank}.{name}"] = parts[rank][name]
    _join_rules(learner, whole, parts, order)
    return whole


def _join_rules(learner: Learner, whole: State, parts: list[State], order: Tensor) -> None:
    """Of the rule: rows by slot are put together, what each process has for itself is kept, and joined if it can be."""
    for name in learner.slotwise:
        rows = [part[f"rule.{name}"] for part in parts]
        if rows[0].ndim == 2:  # a process may know of fewer classes
            width = max(row.shape[1] for row in rows)
            rows = [torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows]
        whole[f"rule.{name}"] = torch.cat(rows)[order]
    if learner.own:
        for name in [name for name in whole if name.startswith(tuple(f"rule.{own}" for own in learner.own))]:
            del whole[name]
        owned = [{k: t for k, t in _beginning(part, "rule.").items() if k.startswith(learner.own)} for part in parts]
        whole |= {f"rule.{name}": t for name, t in learner.join_own(owned).items()}
        whole |= {f"shares.{rank}.rule.{name}": t for rank, own in enumerate(owned) for name, t in own.items()}


def _is_common(learner: Learner, name: str) -> bool:
    return name not in learner.slotwise and not name.startswith(learner.own)


def _weights(state: State) -> list[Tensor]:
    return [t for name, t in state.items() if name.startswith("model.") and t.is_floating_point()]


def _beginning(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _in_order(state: State) -> Tensor:
    """Slots by class, step and id."""
    return torch.from_numpy(np.lexsort([state[f"memory.{name}"].numpy() for name in ("ids", "steps", "targets")]))


def _places(targets: Tensor) -> Tensor:
    """Of sorted classes: each sample's number among its class."""
    return torch.arange(len(targets)) - torch.searchsorted(targets, targets)


def _generator(state: Tensor, rank: int, size: int) -> Tensor:
    """A state of the random generator for each of so many processes, drawn from one that was everyone's or nobody's."""
    if rank == 0:
        return state
    generator = torch.Generator()
    generator.set_state(state)
    seeds = torch.randint(2**31, (size,), generator=generator)
    return torch.Generator().manual_seed(int(seeds[rank])).get_state()
