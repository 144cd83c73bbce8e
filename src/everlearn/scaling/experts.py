"""Experts spread over processes, and mixtures under tensor parallelism."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel.style import ParallelStyle
from torch.nn import functional as F

from everlearn.models.mixture import Compute, local
from everlearn.scaling.collectives import all_to_all_rows, exchange_counts, splits


class AllToAll:
    """Rows go to the processes that hold their experts, and their outputs come back."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __call__(self, compute: Compute, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert to outputs in the same order."""
        size = self.group.size()
        theirs_PE = exchange_counts(counts_E.view(size, -1), self.group)  # row p: what process p sends to my experts
        send, receive = splits(counts_E.view(size, -1), len(rows_RD)), splits(theirs_PE, len(rows_RD))
        came_RD = all_to_all_rows(rows_RD, send, receive, self.group)
        # rows came sorted by sender, then expert; experts want them by expert
        expert_R = torch.arange(theirs_PE.shape[1], device=rows_RD.device).repeat(size)
        order_R = expert_R.repeat_interleave(theirs_PE.flatten(), output_size=sum(receive)).argsort(stable=True)
        out_RD = compute(came_RD[order_R], theirs_PE.sum(0))
        back_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
        return all_to_all_rows(out_RD[back_R], receive, send, self.group)


class MixtureParallel(ParallelStyle):
    """A mixture under tensor parallelism: every process routes all tokens, and has a part of every expert's width.

    Outputs are partial sums, and so are the gradients of the inputs, of the router's weights too.
    """

    def __init__(self, layout: Placement) -> None:
        self.layout = layout

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        router: Any = module.router
        router.weight = _placed(router.weight, device_mesh, Replicate())
        if module.shared is not None:  # its inputs and outputs are local: partial as those of the routed experts
            for name, dim in (("gate", 0), ("up", 0), ("down", 1)):
                linear: Any = getattr(module.shared, name)
                linear.weight = _placed(linear.weight, device_mesh, Shard(dim))
                linear.forward = partial(_local_linear, linear)
        module.register_forward_pre_hook(self._gather(device_mesh))
        module.register_forward_hook(self._reduce(device_mesh))
        return module

    def _gather(self, mesh: DeviceMesh) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            x = DTensor.from_local(inputs[0], mesh, [self.layout], run_check=False)
            return (x.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]),)

        return hook

    def _reduce(self, mesh: DeviceMesh) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return (
                DTensor.from_local(output, mesh, [Partial()], run_check=False)
                .redistribute(placements=[self.layout])
                .to_local()
            )

        return hook


def _placed(weight: Tensor, mesh: DeviceMesh, placement: Placement) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(weight, mesh, [placement], src_data_rank=None))


def _local_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, local(linear.weight))
