"""Class-balancing reservoir: rare classes are kept whole, frequent ones are thinned out.

Chrysakis & Moens 2020, *Online Continual Learning from Imbalanced Data* (ICML, PMLR 119), Algorithm 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from everlearn.memory.host_classes import HostClasses
from everlearn.memory.memory import Memory


class ClassBalanced:
    """Policy with a state: which classes have ever been the largest ("full"), and how many samples of each came.

    A sample of a class that is not full overwrites a random one of the largest class; a sample of a full class c stays
    with probability m_c / n_c (held / ever offered) and then overwrites one of its own class.

    Examples
    --------
    >>> import torch
    >>> memory, policy, rng = Memory(4), ClassBalanced(), torch.Generator().manual_seed(0)
    >>> picture = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    >>> for i, label in enumerate([0, 0, 0, 0, 0, 0, 1, 1]):
    ...     policy(memory, picture, torch.tensor([label]), torch.tensor([i]), i, rng, classes=2)
    >>> memory.counts.tolist()
    [2, 2]
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self.full: set[int] = set()
        self._host = HostClasses()

    def __call__(
        self,
        memory: Memory,
        inputs: Tensor,
        targets: Tensor,
        ids: Tensor,
        step: int,
        generator: torch.Generator,
        *,
        classes: int,
    ) -> None:
        """Offer a batch, sample by sample as the algorithm has it; as for `reservoir`, ``targets`` on the host."""
        self.came += [0] * (classes - len(self.came))
        choose = partial(self._slot, generator=generator, classes=classes)
        self._host.offer(memory, inputs, targets, ids, step, choose, classes=classes)

    def _slot(self, label: int, generator: torch.Generator, classes: int) -> int | None:
        host = self._host
        self.came[label] += 1
        if host.free is not None:
            return host.free
        counts = host.counts(classes)
        self.full |= set(np.flatnonzero(counts == counts.max()).tolist())
        u, pick = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if label not in self.full:
            return host.one_of(int(counts.argmax()), pick)
        return host.one_of(label, pick) if u <= counts[label] / self.came[label] else None

    def state_dict(self) -> dict[str, Tensor]:
        """Counts of what came and the classes that were ever full."""
        return {
            "came": torch.tensor(self.came, dtype=torch.int64),
            "full": torch.tensor(sorted(self.full), dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.came, self.full = state["came"].tolist(), set(state["full"].tolist())
