"""Replica groups by torchft: one that dies costs the step under way, the others go on, and it heals from them.

Every group holds the whole model in its own layout and takes its share of a step's sequences; gradients are summed over
the groups that live. So a step is the same step however many take part.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from everlearn.errors import RunError, SettingError

GROUP, GROUPS, LIGHTHOUSE = "REPLICA_GROUP_ID", "NUM_REPLICA_GROUPS", "TORCHFT_LIGHTHOUSE"


def group() -> int | None:
    """Which replica group this process is of; None where there are none."""
    told = os.environ.get(GROUP, "")
    return int(told) if told.isdigit() else None


def library() -> Any:
    """Torchft; a `SettingError` where it is missing."""
    os.environ.setdefault("RUST_LOG", "error")  # its lighthouse tells of every step
    try:
        import torchft
    except ImportError as error:
        raise SettingError(
            "replica groups need `pip install everlearn[torchft]`; or start the run without --groups"
        ) from error
    return torchft


class Replicas:
    """This group's seat among the groups.

    Parameters
    ----------
    step : int
        Steps taken so far.
    timeout : float
        Seconds after which a group that is silent counts as dead.
    state : callable
        Gives all that another group needs to go on from here.
    heal : callable
        Takes what another group's ``state`` gave.
    device : str

    Raises
    ------
    SettingError
        If torchft is missing, or no lighthouse is named.
    RunError
        If the lighthouse does not answer.
    """

    def __init__(
        self,
        step: int,
        timeout: float,
        state: Callable[[], dict[str, Any]],
        heal: Callable[[dict[str, Any]], None],
        device: str = "cpu",
    ) -> None:
        torchft = library()
        from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL

        address = os.environ.get(LIGHTHOUSE)
        if not address:
            raise SettingError(f"{GROUP} is set, {LIGHTHOUSE} is not; name the lighthouse, or start with --groups")
        for name in ("torchft", "torchft.manager", "torchft.process_group", "torchft.checkpointing.http_transport"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # deaths are told by who watches, in one line
        limit = timedelta(seconds=timeout)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._store, host, port = _meeting(rank, world)
        kind = ProcessGroupNCCL if device == "cuda" else ProcessGroupGloo
        try:
            self.manager = torchft.Manager(
                pg=kind(timeout=limit), load_state_dict=heal, state_dict=state, min_replica_size=1,
                use_async_quorum=False, timeout=limit, quorum_timeout=limit, connect_timeout=limit, rank=rank,
                world_size=world, store_addr=host, store_port=port, lighthouse_addr=address,
                replica_id=f"group_{group()}")  # fmt: skip
        except (RuntimeError, TimeoutError) as error:
            raise RunError(f"lighthouse {address} does not answer within {timeout:g} s; start it first") from error
        self.set_step(step)

    def set_step(self, step: int) -> None:
        """Say how many steps have been taken, after a checkpoint was read."""
        self.manager.load_state_dict({"step": step, "batches_committed": step})

    def begin(self) -> None:
        """Find out which groups live, and heal if others are ahead. Before each step."""
        try:
            self.manager.start_quorum()
        except (RuntimeError, TimeoutError) as error:
            raise RunError("the other replica groups or the lighthouse do not answer") from error

    @property
    def leads(self) -> bool:
        """Whether this group writes checkpoints and the journal."""
        return self.manager.participating_rank() in (0, None)

    @property
    def living(self) -> int:
        """Groups that take part in the step."""
        return max(1, self.manager.num_participants())

    def share(self, units: int) -> tuple[int, int]:
        """First and one past the last of so many equal parts of a step that are this group's."""
        rank, count = self.manager.participating_rank() or 0, self.living
        return units * rank // count, units * (rank + 1) // count

    def sum(self, parameters: Iterable[nn.Parameter], loss: Tensor, share: float, counts: Sequence[Tensor]) -> Tensor:
        """Sum gradients and loss, weighted by this group's share of the step, and counts; returns the loss."""
        grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
        held = [*grads, loss, *counts]
        torch._foreach_mul_(grads, share)
        loss *= share
        for work in [self.manager.allreduce(x, reduce_op=dist.ReduceOp.SUM) for x in held]:
            work.wait()
        return loss

    def commit(self, fine: bool) -> bool:
        """Whether the step counts: not if a group was lost in it, or if some process of this one finds it not fine."""
        if not fine:
            self.manager.report_error(ArithmeticError("the loss or gradient is not finite, or the loss a spike"))
        return bool(self.manager.should_commit())

    @property
    def lost(self) -> bool:
        """Whether communication failed in this step."""
        found = self.manager.errored()
        return found is not None and not isinstance(found.original_exception, ArithmeticError)

    def leave(self) -> None:
        """Part from the other groups."""
        self.manager.shutdown(wait=False)


def _meeting(rank: int, world: int) -> tuple[dist.TCPStore | None, str, int]:
    """A store where the processes of this group find its manager: the first one keeps it."""
    store: dist.TCPStore | None = None
    found: list[Any] = ["", 0]
    if rank == 0:
        host = socket.gethostname() if world > 1 else "localhost"
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        found = [host, store.port]
    if world > 1:
        dist.broadcast_object_list(found)
    return store, found[0], found[1]
