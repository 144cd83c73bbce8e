"""Processes that learn one stream together, and what they tell one another. Alone, nothing is exchanged.

Every method here that exchanges something must be called by all processes, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from everlearn.errors import SettingError

T = TypeVar("T")


class Group:
    """This process's place among those that learn together.

    Parameters
    ----------
    rank, size : int
        Its number, and how many there are; the group of PyTorch's distributed stack must stand if there are several.

    Examples
    --------
    >>> alone = Group()
    >>> alone.share(7), alone.gather(torch.tensor([3, 1])).tolist()
    (7, [3, 1])
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, n: int) -> int:
        """This process's part of n; the first ones get what is left over."""
        return n // self.size + (self.rank < n % self.size)

    def share_of_memory(self, capacity: int) -> int:
        """This process's part of the bound on remembered samples; everyone needs one at least."""
        if capacity < self.size:
            raise SettingError(
                f"memory is {capacity} for {self.size} processes; expected as many remembered samples as processes"
            )
        return self.share(capacity)

    def gather(self, rows: Tensor) -> Tensor:
        """Everyone's rows, in the order of ranks; each may have another number of them."""
        if self.alone:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        numbers = counts.tolist()
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, numbers)])

    def gather_bytes(self, written: bytes) -> list[bytes]:
        """Everyone's bytes, in the order of ranks."""
        if self.alone:
            return [written]
        lengths = self.gather(torch.tensor([len(written)])).tolist()
        rows = self.gather(torch.frombuffer(bytearray(written), dtype=torch.uint8))
        return [part.numpy().tobytes() for part in rows.split(lengths)]

    def collect(self, written: bytes) -> list[bytes] | None:
        """Everyone's bytes at process 0, None elsewhere."""
        lengths = self.gather(torch.tensor([len(written)])).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(written)] = torch.frombuffer(bytearray(written), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in lengths] if self.rank == 0 else None
        dist.gather(padded, parts)
        return None if parts is None else [part[:n].numpy().tobytes() for part, n in zip(parts, lengths)]

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.alone:
            return x
        x = x.clone()
        dist.all_reduce(x)
        return x

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating point tensors by their sums over all processes."""
        if self.alone or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).float() for t in tensors])
        dist.all_reduce(flat)
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors])):
            t.detach().copy_(part.view(t.shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of process 0."""
        for t in () if self.alone else tensors:
            held = t.detach().contiguous()
            dist.broadcast(held, src=0)
            t.detach().copy_(held)

    def first(self, work: Callable[[], T]) -> T:
        """Process 0 does a piece of work, then all the others do; gives what it came to here."""
        if self.alone:
            return work()
        if self.rank == 0:
            done = work()
            dist.barrier()
        else:
            dist.barrier()
            done = work()
        return done
