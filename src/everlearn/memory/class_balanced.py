"""Class-balancing reservoir: rare classes are kept whole, frequent ones are thinned out.

Chrysakis & Moens 2020, *Online Continual Learning from Imbalanced Data* (ICML, PMLR 119), Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
        """Offer a batch, sample by sample as the algorithm has it; arguments as for `reservoir`."""
        self.came += [0] * (classes - len(self.came))
        for i, label in enumerate(targets.tolist()):
            self.came[label] += 1
            memory.offered += 1
            one = slice(i, i + 1)
            if not memory.full:
                memory.append(inputs[one], targets[one], ids[one], step)
                continue
            slot = self._slot(memory, label, generator, classes)
            if slot is not None:
                memory.write(slot, inputs[one], targets[one], ids[one], step, classes=classes)

    def _slot(self, memory: Memory, label: int, generator: torch.Generator, classes: int) -> Tensor | None:
        counts = memory.counts.tolist()
        counts += [0] * (classes - len(counts))
        largest = max(counts)
        self.full |= {c for c, count in enumerate(counts) if count == largest}
        u, pick = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if label in self.full:
            if u > counts[label] / self.came[label]:
                return None
            victim = label
        else:
            victim = counts.index(largest)
        members = memory.index.slots(victim)
        return members[int(pick * len(members))].reshape(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Counts of what came and the classes that were ever full."""
        return {
            "came": torch.tensor(self.came, dtype=torch.int64),
            "full": torch.tensor(sorted(self.full), dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.came, self.full = state["came"].tolist(), set(state["full"].tolist())
