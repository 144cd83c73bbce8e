"""One step's forward and backward pass in any layout, on a model built for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional as F

from everlearn.models.language import Language, LanguageConfig
from everlearn.models.mixture import Router
from everlearn.scaling import exact, gradients
from everlearn.scaling.initialise import initialise, named
from everlearn.scaling.mesh import Mesh
from everlearn.scaling.parallelise import parallelise, shards, splits_backward
from everlearn.scaling.pipeline import make_schedule, split, stages_of


@dataclass
class Engine:
    """A model cut as a layout says, and the passes through it.

    Attributes
    ----------
    config : LanguageConfig
    mesh : Mesh
    stages : list of Language
        What this process holds: the model, or its stages of the pipeline.
    device : torch.device
    """

    config: LanguageConfig
    mesh: Mesh
    stages: list[Language]
    device: torch.device
    _schedule: Any = field(default=None, repr=False)
    _tokens: float = 1.0

    @classmethod
    def build(
        cls, config: LanguageConfig, mesh: Mesh, seed: int, device: str = "cpu", *, empty: bool = False
    ) -> Engine:
        """Build on the meta device, cut, then fill; ``empty`` leaves it on the meta device."""
        chunks = mesh.layout.pp * mesh.layout.vpp * (2 if mesh.layout.schedule == "zbv" and mesh.layout.pp > 1 else 1)
        stages = []
        for index in stages_of(mesh.rank("pp"), mesh.layout):
            with torch.device("meta"):
                stage = split(Language(config), index, chunks)
            stages.append(parallelise(stage, mesh))
        engine = cls(config, mesh, stages, torch.device(device))
        if not empty:
            for stage in stages:
                stage.to_empty(device=device)
                if not isinstance(stage, FSDPModule):
                    stage.tie()  # to_empty made two of the tied matrix
                initialise(stage, seed)
        return engine

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of all stages held here."""
        for stage in self.stages:
            yield from stage.parameters()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The same by name; a later stage's copy of a tied matrix goes by the embedding's name."""
        found: dict[str, nn.Parameter] = {}
        for stage in self.stages:
            for name, parameter in named(stage):
                found["embed.weight" if name == "head.weight" and self.config.tied else name] = parameter
        return found

    def traced_step(self, tokens: Tensor, labels: Tensor) -> None:
        """The passes of `forward_backward` on tensors without values: nothing is read off them."""
        tokens, labels = self.mine(tokens, labels)
        self._tokens = float(labels.numel() * self.mesh.size("loss"))
        micro = self.mesh.layout.micro_batch
        if self.mesh.layout.pp > 1:
            count, length = len(tokens) // micro, tokens.shape[1]
            self._schedule = make_schedule(self.stages, self.mesh, count, self.loss, self.device, length)
            self._pipeline(tokens, labels, count)
        else:
            self._accumulate(tokens.split(micro), labels.split(micro))
        gradients.complete(self.parameters())

    def zero_grad(self) -> None:
        """Drop gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def clear(self) -> None:
        """Drop all that a step leaves behind: gradients, and the routers' counts where `balance` did not use them."""
        self.zero_grad()
        for router in self.routers():
            router.counts.zero_()

    def forward_backward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Accumulate the gradient of the step's mean loss; return that loss, the same on every process.

        Parameters
        ----------
        tokens, labels : Tensor
            ``[n, S]`` int64: this replica's sequences, whole; labels of −100 do not count. The mean is over all labels
            that count in the step, of every replica and micro-batch.
        """
        tokens, labels = (x.to(self.device) for x in self.mine(tokens, labels))
        counted = (labels != -100).sum().double()
        self._sum(counted, "loss")
        self._tokens = max(1.0, counted.item())
        for stage in self.stages:
            stage.train()
        micro = self.mesh.layout.micro_batch
        if self.mesh.layout.pp > 1:
            loss = self._pipeline(tokens, labels, len(tokens) // micro)
        elif self.mesh.layout.exact:
            loss = self._accumulate_exactly(tokens.split(micro), labels.split(micro))
        else:
            loss = self._accumulate(tokens.split(micro), labels.split(micro))
        gradients.complete(self.parameters())
        if splits_backward(self.mesh.layout) and self.mesh.size("loss") > 1:
            gradients.sum_over(self.parameters(), self.mesh.group("loss"))
        self._sync_tied()
        loss = loss.double()
        if not self.mesh.layout.exact:
            self._sum(loss, "loss")
        if self.mesh.layout.pp > 1:
            self._sum(loss, "pp")
        return loss

    @torch.no_grad()
    def evaluate(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, without gradients; the same on every process."""
        tokens, labels = (x.to(self.device) for x in self.mine(tokens, labels))
        counted = (labels != -100).sum().double()
        self._sum(counted, "loss")
        self._tokens = max(1.0, counted.item())
        for stage in self.stages:
            stage.eval()
        micro = self.mesh.layout.micro_batch
        if self.mesh.layout.pp > 1:
            loss = self._pipeline(tokens, labels, len(tokens) // micro, train=False)
        else:
            with self._precision(), self._loss_context():
                parts = zip(tokens.split(micro), labels.split(micro))
                loss = torch.stack([_plain(self.loss(self.stages[0](x), y)) for x, y in parts]).sum()
        loss = loss.double()
        self._sum(loss, "loss")
        if self.mesh.layout.pp > 1:
            self._sum(loss, "pp")
        return loss

    def mine(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """The tokens of sequences ``[n, S]`` that this process holds under context parallelism."""
        if self.mesh.layout.cp == 1:
            return batches
        context = self.stages[0].context
        return tuple(x[:, context.positions(x.shape[1] // context.size)] for x in batches)

    def gradient_norm(self) -> Tensor:
        """Norm of the whole gradient; a tied matrix counts once."""
        held = [
            p for stage in self.stages for name, p in named(stage) if not (name == "head.weight" and self._ends_tied())
        ]
        return gradients.gradient_norm(held, self.mesh)

    def routers(self) -> list[Router]:
        """Routers of all stages held here."""
        return [m for stage in self.stages for m in stage.modules() if isinstance(m, Router)]

    def balance(self, rate: float) -> None:
        """Move the experts' biases by how many tokens each had in the step, over all replicas."""
        for router in self.routers():
            self._sum(router.counts, "loss")
            router.balance(rate)

    def _accumulate(self, tokens: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> Tensor:
        model = self.stages[0]
        total = torch.zeros((), device=self.device)
        for i, (x, y) in enumerate(zip(tokens, labels)):
            if isinstance(model, FSDPModule):
                last = i == len(tokens) - 1  # sharded gradients leave no room for whole ones between micro-batches
                model.set_requires_gradient_sync(last or self.mesh.layout.zero >= 2)
            with self._loss_context():
                with self._precision():
                    loss = self.loss(model(x), y)
                loss.backward()
            total += _plain(loss.detach())
        return total

    def _accumulate_exactly(self, tokens: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> Tensor:
        """The same sums to the same bits with any number of processes; the loss is summed with the gradients."""
        model, tree = self.stages[0], exact.TreeSum()
        parameters = list(model.parameters())
        for x, y in zip(tokens, labels):
            with self._precision():
                loss = self.loss(model(x), y)
            loss.backward()
            tree.add([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters] + [loss.detach()])
            self.zero_grad()
        sums = tree.total()
        if self.mesh.size("loss") > 1:
            exact.sum_over(sums, self.mesh.group("loss"))
        for parameter, grad in zip(parameters, sums):
            parameter.grad = grad
        return sums[-1]

    def _pipeline(self, tokens: Tensor, labels: Tensor, micro_batches: int, train: bool = True) -> Tensor:
        if self._schedule is None:
            self._schedule = make_schedule(self.stages, self.mesh, micro_batches, self.loss, self.device)
        losses: list[Tensor] = []
        first = self.stages[0].embed is not None
        last = any(stage.head is not None for stage in self.stages)
        run = self._schedule.step if train else self._schedule.eval
        with self._loss_context(), self._precision():
            run(*((tokens,) if first else ()), **({"target": labels, "losses": losses} if last else {}))
        return (
            torch.stack([_plain(x.detach()) for x in losses]).sum() if losses else torch.zeros((), device=self.device)
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies over the tokens of the whole step, in float32."""
        summed = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        return summed / self._tokens

    def _loss_context(self) -> AbstractContextManager[Any]:
        return loss_parallel() if self.mesh.layout.tp > 1 else nullcontext()

    def _precision(self) -> AbstractContextManager[Any]:
        """FSDP computes in bfloat16 by itself; where nothing is sharded, autocast does."""
        if self.mesh.layout.precision == "bf16" and not shards(self.mesh.layout):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _sum(self, value: Tensor, name: str) -> None:
        if self.mesh.size(name) > 1:
            dist.all_reduce(value, group=self.mesh.group(name))

    def _ends_tied(self) -> bool:
        return self.config.tied and self.mesh.layout.pp > 1

    def _sync_tied(self) -> None:
        """First and last stage have a copy each of a tied matrix: both get the sum of their gradients."""
        if not self._ends_tied():
            return
        mine = [p for stage in self.stages for name, p in named(stage) if name in ("embed.weight", "head.weight")]
        grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in mine if p.grad is not None]
        if len(grads) == 2:  # a V-shaped schedule: both ends are here
            total = grads[0] + grads[1]
            for grad in grads:
                grad.copy_(total)
        elif grads:
            ranks = dist.get_process_group_ranks(self.mesh.group("pp"))
            other = ranks[-1] if self.mesh.rank("pp") == 0 else ranks[0]
            theirs = torch.empty_like(grads[0])
            for work in dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, grads[0].contiguous(), other), dist.P2POp(dist.irecv, theirs, other)]
            ):
                work.wait()
            grads[0].add_(theirs)


def _plain(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x
