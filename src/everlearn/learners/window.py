"""ASER's candidates and evaluation samples as a window that slides over memory, a part of it encoded anew each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.memory import Memory

NOBODY = -1
"""The class of a place that holds no sample."""
FAR = 1e4
"""All its features: it changes nobody's value."""
REST = 8
"""Steps for which a retrieved candidate is not retrieved again; fewer where there are few candidates."""


@dataclass
class Drawn:
    """Candidates and evaluation samples of one step.

    Attributes
    ----------
    C : Tensor
        ``[N]`` slots of the candidates; ``f_C [N, D]`` their features and ``y_C [N]`` classes, `NOBODY` where none is.
    since : Tensor
        ``[N]`` the step at which each was last retrieved or written.
    came : Tensor
        ``[N]`` the step at which the sample that was drawn had come: a slot with another one holds another sample.
    f_S, y_S : Tensor
        ``[E, D]`` and ``[E]`` of the evaluation samples.
    """

    C: Tensor
    f_C: Tensor
    y_C: Tensor
    since: Tensor
    came: Tensor
    f_S: Tensor
    y_S: Tensor

    @property
    def w_S(self) -> Tensor:
        """``[E]`` 1 where there is an evaluation sample, 0 where there is none."""
        return (self.y_S != NOBODY).float()


class Window:
    """R rows of b samples three times over: candidates drawn as such, candidates that were in S before, and S.

    Each step the oldest row leaves, S's oldest joins the candidates with the features it has, and two rows come in. S
    draws from all of memory, candidates included, which then are none; they are drawn from the rest, so that no sample
    stands in two places.

    Parameters
    ----------
    slots, classes, since, came : Tensor
        ``[3, R, b]``.
    features : Tensor
        ``[3, R, b, D]``.
    turn : int
        The row that is exchanged next.

    Examples
    --------
    >>> memory, rng = Memory(6), torch.Generator().manual_seed(0)
    >>> memory.append(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 2, torch.arange(6), step=0)
    >>> window = Window.over(memory, candidates=4, refresh=2, width=3)
    >>> for rows in (2, 1):
    ...     drawn = window.slide(memory, rng, step=1, rows=rows)
    ...     window.fill(torch.zeros(len(drawn), 3))
    >>> sorted(window.slots.flatten().tolist())  # 6 is nobody's place
    [0, 1, 2, 5, 6, 6]
    """

    def __init__(
        self, slots: Tensor, features: Tensor, classes: Tensor, since: Tensor, came: Tensor, turn: int = 0
    ) -> None:
        self.slots, self.features, self.classes, self.since, self.came = slots, features, classes, since, came
        self.turn, self._coming = turn, slice(0)

    @classmethod
    def over(cls, memory: Memory, candidates: int, refresh: int, width: int) -> Window:
        """An empty window of at most so many candidates, half as many in S and as many rows as ``refresh``.

        Smaller over a small memory, a third of which S takes at most.
        """
        b = max(1, min(candidates // 2, memory.capacity // 3) // refresh)
        R = max(1, min(refresh, candidates // (2 * b), memory.capacity // (3 * b)))
        slots = torch.full((3, R, b), memory.capacity, device=memory.device)
        features = torch.full((3, R, b, width), FAR, device=memory.device)
        classes, since, came = torch.full((3, *slots.shape), NOBODY, device=memory.device)
        return cls(slots, features, classes, since, came)

    @property
    def rows(self) -> int:
        """R, the steps for which a sample serves in S and, if it was drawn as a candidate, as one."""
        return self.slots.shape[1]

    def slide(self, memory: Memory, generator: torch.Generator, step: int, rows: int = 1) -> Tensor:
        """Draw so many rows anew; gives the slots, ``[2 · rows · b]``, whose features `fill` takes."""
        self._coming = slice(self.turn, self.turn + rows)
        self.turn = (self.turn + rows) % self.rows
        for held in (self.slots, self.features, self.classes, self.since, self.came):
            held[1, self._coming] = held[2, self._coming]
        new = (slice(None, None, 2), self._coming)  # of candidates and of S
        self.slots[new], self.classes[new] = memory.capacity, NOBODY
        n = rows * self.slots.shape[2]
        S = self._shares(memory, n, generator)
        self.forget(S)  # candidates that S takes: what has come in last stands among them
        self.slots.masked_fill_(self.classes == NOBODY, memory.capacity)
        u = torch.rand(memory.capacity, generator=generator).to(memory.device, non_blocking=True)
        u = torch.cat([u, u.new_full((1,), 2)])  # behind memory's last slot is nobody
        u[self.slots.flatten()] = u[S] = 2
        least, C = u.topk(n, largest=False, sorted=False)
        slots = torch.stack([torch.where(least < 2, C, memory.capacity), S]).view(2, rows, -1)
        self.slots[new], self.classes[new], self.came[new] = slots, memory.targets[slots], memory.steps[slots]
        self.since[new] = step - REST
        return slots.flatten()

    def fill(self, features: Tensor) -> None:
        """Take the features ``[2 · rows · b, D]`` of what the last `slide` drew."""
        new = self.features[::2, self._coming]
        new[:] = torch.where(self.classes[::2, self._coming, :, None] == NOBODY, FAR, features.view_as(new))

    def drawn(self) -> Drawn:
        """Candidates and S as they stand; what is written into the candidates' tensors stays."""
        (C, y_C, since, came), (_, y_S, _, _) = (
            tuple(t[part].flatten() for t in (self.slots, self.classes, self.since, self.came))
            for part in (slice(2), slice(2, 3))
        )
        return Drawn(C, self.features[:2].flatten(0, 2), y_C, since, came, self.features[2].flatten(0, 1), y_S)

    def state(self) -> dict[str, Tensor]:
        """All of it, by the names that the constructor takes."""
        held = {name: t for name, t in vars(self).items() if isinstance(t, Tensor)}
        return held | {"turn": torch.tensor(self.turn)}

    def forget(self, slots: Tensor) -> None:
        """Hold the samples of these slots no longer."""
        gone = torch.isin(self.slots, slots)
        self.classes.masked_fill_(gone, NOBODY)
        self.features.masked_fill_(gone[..., None], FAR)

    def _shares(self, memory: Memory, n: int, generator: torch.Generator) -> Tensor:
        """``n`` slots for S, of the classes of which it has fewest."""
        slots, valid = memory.draw_balanced(n, generator, without=self.slots[2].flatten())
        y_S = self.classes[2].flatten()
        held = torch.zeros(len(slots) + 1, device=memory.device).index_add_(0, y_S + 1, torch.ones_like(y_S).float())
        turn = torch.rand(len(slots), generator=generator).to(memory.device, non_blocking=True)  # where all have alike
        place = (held[1:] + turn)[:, None] + torch.arange(n, device=memory.device)
        least, best = place.masked_fill(~valid, torch.inf).flatten().topk(n, largest=False)
        return torch.where(least < torch.inf, slots.flatten()[best], memory.capacity)
