"""Collectives with gradients, on PyTorch's functional ones, which can be compiled and traced."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

_gather: Any = getattr(functional, "all_gather_single_autograd", None) or functional.all_gather_tensor_autograd


def all_to_all(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``parts[p]`` goes to process p; the result's ``[p]`` came from it. Shape ``[P, ...]``."""
    return functional.wait_tensor(functional.all_to_all_single_autograd(parts.contiguous(), None, None, group))


def all_to_all_rows(rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
    """Rows in runs of ``send[p]`` for process p; the result has runs of ``receive[p]`` from it."""
    return functional.wait_tensor(functional.all_to_all_single_autograd(rows.contiguous(), receive, send, group))


def exchange_counts(counts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Integers ``[P, ...]``: row p goes to process p; no gradient."""
    return functional.wait_tensor(functional.all_to_all_single(counts.contiguous(), None, None, group))


def splits(counts_PE: Tensor, rows: int) -> list[int]:
    """Rows for each process; of a traced tensor, which has no values, an even share each."""
    if is_fake(counts_PE):
        return [rows // len(counts_PE)] * len(counts_PE)
    return [int(n) for n in counts_PE.sum(1).tolist()]


def all_gather(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Everyone's tensors joined along a dimension; the gradient is summed back."""
    return functional.wait_tensor(_gather(x.contiguous(), dim, group))
