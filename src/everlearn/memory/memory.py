"""The bounded set of remembered samples: pictures, classes, and when each came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.errors import RunError, SettingError
from everlearn.memory.class_index import ClassIndex


@dataclass(frozen=True)
class Remembered:
    """Samples taken out of memory: ``inputs [n, C, H, W]`` uint8, ``targets [n]`` class indices, ``slots [n]``."""

    inputs: Tensor
    targets: Tensor
    slots: Tensor

    def __len__(self) -> int:
        return len(self.slots)


class Memory:
    """At most ``capacity`` samples on one device, with an index by class.

    Where a sample goes is a policy's business (`reservoir`, `class_balanced`, or a learner's own); memory stores,
    counts and draws. One scratch slot behind the last takes what a masked write drops.

    Parameters
    ----------
    capacity : int
        The bound, 1 or more.
    device : torch.device or str
        Where pictures and index live.

    Attributes
    ----------
    size : int
        Samples held now.
    offered : int
        Samples ever offered, which reservoir sampling counts.
    writes : int
        How often it was written to: who knows what it held at a time knows whether it still does.
    inputs, targets, ids, steps : Tensor
        By slot: picture (uint8), class index (−1 where empty), the sample's id, the learner's step at which it came.

    Examples
    --------
    >>> import torch
    >>> memory = Memory(capacity=3)
    >>> pictures = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> memory.append(pictures, torch.tensor([0, 1]), ids=torch.tensor([7, 8]), step=1)
    >>> memory.size, memory.counts.tolist(), memory.ids[:2].tolist()
    (2, [1, 1], [7, 8])
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise SettingError(f"the memory's capacity is {capacity}; expected 1 or more samples")
        self.capacity = capacity
        self.device = torch.device(device)
        self.size = 0
        self.offered = 0
        self.writes = 0
        self.inputs: Tensor | None = None  # allocated when the first sample shows its shape
        self.targets = torch.full((capacity + 1,), -1, dtype=torch.int64, device=device)
        self.ids = torch.full((capacity + 1,), -1, dtype=torch.int64, device=device)
        self.steps = torch.full((capacity + 1,), -1, dtype=torch.int64, device=device)
        self.index = ClassIndex(capacity, device)

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return self.size == self.capacity

    @property
    def counts(self) -> Tensor:
        """``[classes]`` samples held of each class."""
        return self.index.counts

    @property
    def n_classes(self) -> int:
        """Classes that memory has ever held."""
        return len(self.index.counts)

    @property
    def nbytes(self) -> int:
        """Bytes of pictures and bookkeeping."""
        held = [self.targets, self.ids, self.steps, self.index.rows, self.index.place]
        return sum(t.numel() * t.element_size() for t in held + ([] if self.inputs is None else [self.inputs]))

    def append(self, inputs: Tensor, targets: Tensor, ids: Tensor, step: int, *, classes: int | None = None) -> None:
        """Store samples in free slots; there must be room. ``classes`` as for `write`, or read off ``targets``."""
        slots = torch.arange(self.size, self.size + len(targets), device=self.device)
        if len(targets) > self.capacity - self.size:
            raise SettingError(f"{len(targets)} samples for {self.capacity - self.size} free slots of memory")
        self.write(slots, inputs, targets, ids, step, classes=classes or self._classes_with(targets))
        self.size += len(targets)

    def write(
        self,
        slots: Tensor,
        inputs: Tensor,
        targets: Tensor,
        ids: Tensor,
        step: int,
        *,
        classes: int,
        keep: Tensor | None = None,
    ) -> None:
        """Overwrite distinct slots. Where ``keep`` is false nothing happens.

        Parameters
        ----------
        slots, inputs, targets, ids : Tensor
            ``[k]``, ``[k, C, H, W]``, ``[k]``, ``[k]``.
        step : int
            The learner's step.
        classes : int
            Classes known so far, this write included: said by the caller, since reading it off ``targets`` would make
            an accelerator wait.
        keep : Tensor, optional
            ``[k]`` bool.
        """
        if self.inputs is None:
            self.inputs = torch.zeros(self.capacity + 1, *inputs.shape[1:], dtype=torch.uint8, device=self.device)
        if inputs.shape[1:] != self.inputs.shape[1:]:
            found, held = tuple(inputs.shape[1:]), tuple(self.inputs.shape[1:])
            raise SettingError(f"pictures of shape {found} for a memory of {held}; expected one size in all of a run")
        slots, inputs, targets, ids = (t.to(self.device, non_blocking=True) for t in (slots, inputs, targets, ids))
        old = self.targets[slots]
        if keep is not None:
            slots = torch.where(keep, slots, self.capacity)
            old, targets = torch.where(keep, old, -1), torch.where(keep, targets, -1)
        self.index.move(slots, old, targets, classes)
        self.writes += 1
        self.inputs[slots] = inputs
        self.targets[slots] = targets
        self.ids[slots] = ids
        self.steps[slots] = torch.where(targets >= 0, step, -1)

    def take(self, slots: Tensor) -> Remembered:
        """Read samples out."""
        if self.inputs is None:
            raise SettingError("memory is empty; nothing can be taken from it")
        return Remembered(self.inputs[slots], self.targets[slots], slots)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Slots of ``min(n, size)`` samples drawn uniformly without replacement."""
        if n * n < self.size:  # few from many: pick until all differ, far cheaper than a permutation
            return _distinct(n, self.size, generator).to(self.device, non_blocking=True)
        return torch.randperm(self.size, generator=generator)[:n].to(self.device, non_blocking=True)

    def draw_balanced(self, n: int, generator: torch.Generator, without: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Up to ``n`` slots of every class, drawn uniformly without replacement and none of those in ``without``.

        Returns
        -------
        slots, valid : Tensor
            ``[classes, n]`` each; a class of fewer than n samples has its last entries invalid. Two halves of the
            columns are disjoint class-balanced samples.
        """
        u = torch.rand(self.size, generator=generator, dtype=torch.float64).to(self.device, non_blocking=True)
        targets, counts = self.targets[: self.size], self.counts
        if without is not None:  # they come last in their class, and do not count
            apart = torch.zeros(self.capacity + 1, dtype=torch.bool, device=self.device).index_fill_(0, without, True)
            apart = apart[: self.size]
            u = (u + apart) / 2
            counts = counts.index_add(0, targets, -apart.to(counts.dtype))
        order = torch.argsort(targets + u)  # shuffled within each class
        first = self.counts.cumsum(0) - self.counts
        column = torch.arange(n, device=self.device)
        valid = column < counts[:, None]
        return order[(first[:, None] + column).clamp(max=self.size - 1)], valid

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that `load_state_dict` restores to the bit."""
        inputs = torch.zeros(0, dtype=torch.uint8) if self.inputs is None else self.inputs[: self.size]
        held = {"targets": self.targets, "ids": self.ids, "steps": self.steps}
        state = {name: tensor[: self.size].clone() for name, tensor in held.items()}
        known = torch.tensor([self.capacity, self.size, self.offered, self.n_classes])
        places = self.index.place[: self.size].clone()  # the order within a class's row is part of the state
        return state | {"inputs": inputs.clone(), "known": known, "places": places}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; the capacity must be the same."""
        capacity, size, offered, n_classes = state["known"].tolist()
        if capacity != self.capacity:
            raise RunError(f"the state is of a memory of {capacity}; this one holds {self.capacity}")
        writes = self.writes
        self.__init__(capacity, self.device)  # type: ignore[misc]
        self.writes = writes + 1
        if size:
            slots = torch.arange(size, device=self.device)
            order = torch.argsort(state["places"], stable=True).to(self.device)
            self.index.move(
                slots[order], torch.full_like(slots, -1), state["targets"].to(self.device)[order], n_classes
            )
            self.inputs = torch.zeros(capacity + 1, *state["inputs"].shape[1:], dtype=torch.uint8, device=self.device)
            self.inputs[:size] = state["inputs"].to(self.device)
            for name in ("targets", "ids", "steps"):
                getattr(self, name)[:size] = state[name].to(self.device)
        self.size, self.offered = size, offered

    def _classes_with(self, targets: Tensor) -> int:
        return max(self.n_classes, int(targets.max()) + 1) if len(targets) else self.n_classes


def _distinct(n: int, size: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(size, (n,), generator=generator)
    while len(torch.unique(drawn)) < n:
        drawn = torch.randint(size, (n,), generator=generator)
    return drawn
