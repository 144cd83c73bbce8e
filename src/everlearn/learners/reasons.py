"""Right reasons: saliency that a step is held to, by what it was or by where it may be.

``rrr``: Ebrahimi, Petryk, Gokul, Gan, Gonzalez, Rohrbach, Darrell 2021, *Remembering for the Right Reasons:
Explanations Reduce Catastrophic Forgetting* (ICLR 2021, arXiv 2010.01528). Beside each remembered sample stands the map
that explained it, Grad-CAM of its class, and a step is penalised for the L1 distance to it. Maps are compared as shares
P of their energy, since logits, and with them maps, grow as learning goes on.

``region``: the idea of Ross, Hughes, Doshi-Velez 2017, *Right for the Right Reasons* (arXiv 1703.03717), to penalise an
explanation where a person said that it must not be. Theirs is the input's gradient; here it is E = Σ_k a_k A_k on the
last feature maps A, with a_k the mean over the map of ∂y/∂A_k and y the log-odds of the sample's class. E is kept with
its sign: what speaks against the other classes outside the region is a shortcut as much as what speaks for this one,
and Grad-CAM of the class alone, which shows only the latter, leaves it open. Where the features are means of the maps
and the head is linear, Σ |E| (1 − R) is how much of the log-odds, in nats, rests on the outside R = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.learners.beside import arrivals
from everlearn.learners.frames import in_foreign_frames
from everlearn.memory import Memory

if TYPE_CHECKING:
    from everlearn.explainers.layers import FeatureMap
    from everlearn.learners.learner import Learner

GRID = 32
"""Cells a side in which memory keeps a region."""


@dataclass(frozen=True)
class Marks:
    """What the samples of a step are held to.

    Parameters
    ----------
    maps : Tensor
        ``[n, 1, h, w]`` shares of energy as remembered; zeros where there is none.
    regions : Tensor
        ``[n, 1, H, W]`` in 0..1: how far a pixel lies inside; ones where no region is known.
    """

    maps: Tensor
    regions: Tensor

    def repeated(self, times: int) -> Marks:
        """For as many views of the same samples."""
        return Marks(self.maps.repeat(times, 1, 1, 1), self.regions.repeat(times, 1, 1, 1)) if times > 1 else self

    def stacked(self, size: tuple[int, int]) -> Tensor:
        """``[n, 2, H, W]``: both at the size of the pictures."""
        return torch.cat([F.interpolate(self.maps, size, mode="bilinear"), self.regions], 1)


class Reasons:
    """Maps and regions of memory's samples, beside its slots, and the penalty of a step.

    Parameters
    ----------
    memory : Memory
        For each slot at most 4 h w bytes of map (h × w as the model's last feature map) and 1024 of region are kept.
    rrr, region : float
        Weights of the two penalties.
    frames : float
        Share of the samples that a step shows in another one's surroundings.

    Examples
    --------
    >>> reasons = Reasons(Memory(10), rrr=1.0, region=0.0)
    >>> reasons.lacking.tolist()
    []
    """

    def __init__(self, memory: Memory, rrr: float, region: float, frames: float = 0.0) -> None:
        self.memory, self.rrr, self.region, self.frames = memory, rrr, region, frames
        self.bounded = region > 0 or frames > 0
        self.maps = torch.zeros(memory.capacity, 0, 0, device=memory.device)
        self.known = torch.zeros(memory.capacity, dtype=torch.bool, device=memory.device)
        cells = GRID if self.bounded else 0
        self.regions = torch.full((memory.capacity, cells, cells), 255, dtype=torch.uint8, device=memory.device)
        self._arriving: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes beside memory's own."""
        return sum(t.numel() * t.element_size() for t in (self.maps, self.known, self.regions))

    @property
    def lacking(self) -> Tensor:
        """Slots whose map has not been taken yet."""
        held = self.known[: self.memory.size]
        return (~held).nonzero().flatten() if self.rrr else held.new_zeros(0, dtype=torch.int64)

    def receive(self, batch: Batch) -> None:
        """Note the regions of the batch that comes in; where it brings none, the whole picture."""
        whole = torch.full((len(batch), 1, GRID, GRID), 255, dtype=torch.uint8)
        regions = whole if batch.regions is None else batch.regions
        self._arriving = regions.to(self.memory.device, non_blocking=True)

    def keep(self, ids: Tensor, step: int) -> None:
        """Store the regions of the samples that memory took in; their maps are lacking."""
        new, position = arrivals(self.memory, ids, step)
        self.known[: self.memory.size] &= ~new
        if self.bounded:
            assert self._arriving is not None
            cells = F.adaptive_avg_pool2d(self._arriving.float(), GRID)[:, 0].round().to(torch.uint8)
            held = self.regions[: self.memory.size]
            self.regions[: self.memory.size] = torch.where(new[:, None, None], cells[position], held)

    def renew(self, slots: Tensor) -> None:
        """Other samples stand in these slots, or the same ones are seen otherwise: no map yet, and no region."""
        self.known[slots], self.regions[slots] = False, 255

    def take(self, slots: Tensor, maps: Tensor) -> None:
        """Store the maps ``[k, h, w]`` of samples in memory."""
        if not self.maps.numel():
            self.maps = torch.zeros(self.memory.capacity, *maps.shape[1:], device=self.memory.device)
        self.maps[slots], self.known[slots] = maps, True

    def marks(self, slots: Tensor, n: int, first: int, size: tuple[int, int]) -> Marks:
        """What ``n`` samples of a step are held to: ``slots`` stand from ``first`` on, the rest is the batch."""
        device = self.memory.device
        there = torch.zeros(n, dtype=torch.bool)
        there[first : first + len(slots)] = True
        there = there.to(device, non_blocking=True)
        h, w = self.maps.shape[1:]
        maps, regions = torch.zeros(n, 1, h or 1, w or 1, device=device), torch.ones(n, 1, *size, device=device)
        if h:
            maps[there, 0] = self.maps[slots] * self.known[slots, None, None]
        if self.bounded:
            regions[there] = F.interpolate(self.regions[slots, None] / 255, size)
            if len(slots) < n:
                assert self._arriving is not None
                regions[~there] = F.interpolate(self._arriving / 255, size)
        return Marks(maps, regions)

    def penalty(self, seen: Saliency, marks: Marks) -> Tensor:
        """``rrr`` · mean ‖P − P̂‖₁ + ``region`` · mean Σ |E| (1 − R), each over the samples that it knows something of.

        Parameters
        ----------
        seen : Saliency
            Of the step's samples.
        marks : Marks
            P̂ and R.
        """
        A = seen.maps
        added, grid = A.new_zeros(()), (A.shape[2], A.shape[3])
        if self.rrr:
            before = shares(F.adaptive_avg_pool2d(marks.maps, grid))
            known = before.flatten(1).any(1)
            drift = (shares(seen.grad_cam()) - before).abs().sum((1, 2, 3))
            added = added + self.rrr * (drift * known).sum() / known.sum().clamp(min=1)
        if self.region:
            marked = (marks.regions < 1).flatten(1).any(1)
            outside = (seen.evidence().abs() * (1 - F.adaptive_avg_pool2d(marks.regions, grid))).sum((1, 2, 3))
            added = added + self.region * (outside * marked).sum() / marked.sum().clamp(min=1)
        return added

    def state_dict(self) -> dict[str, Tensor]:
        """What stands beside memory's samples."""
        size = self.memory.size
        return {name: getattr(self, name)[:size].clone() for name in ("maps", "known", "regions")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.__init__(self.memory, self.rrr, self.region, self.frames)  # type: ignore[misc]
        size, h, w = state["maps"].shape
        self.maps = torch.zeros(self.memory.capacity, h, w, device=self.memory.device)
        for name, tensor in state.items():
            getattr(self, name)[:size] = tensor.to(self.memory.device)


def marked(
    learner: Learner, inputs: Tensor, slots: Tensor | None, first: int, generator: torch.Generator
) -> tuple[Tensor, Marks]:
    """The pictures as the step sees them, and what it holds them to, which is moved as they are."""
    assert learner.reasons is not None
    slots = torch.zeros(0, dtype=torch.int64, device=learner.device) if slots is None else slots
    size, views, augment = (inputs.shape[2], inputs.shape[3]), learner.options.views, learner.options.augmentation
    marks = learner.reasons.marks(slots, len(inputs) // views, first, size).repeated(views)
    if learner.reasons.frames:
        inputs = in_foreign_frames(inputs, marks.regions, learner.reasons.frames, generator)
    if augment is None:
        return inputs, marks
    seen, moved = augment.together(inputs, marks.stacked(size), generator)
    assert moved is not None
    return seen, Marks(moved[:, :1], moved[:, 1:])


def take_maps(learner: Learner, chunk: int = 64) -> None:
    """Explain the remembered samples that have no map yet, as the model is now."""
    assert learner.reasons is not None
    lacking = learner.reasons.lacking
    for slots in lacking.split(chunk) if len(lacking) else ():
        m = learner.memory.take(slots)
        with learner.evaluating(), torch.enable_grad(), watching(len(slots)) as saliency:
            logits = learner.model.head(learner.passed(m.inputs))
        learner.reasons.take(slots, shares(saliency(logits, m.targets).grad_cam()).detach()[:, 0])


class Saliency:
    """What a forward pass saw, as part of its graph.

    Parameters
    ----------
    last : FeatureMap
        The last feature maps A.
    logits, targets : Tensor
        ``[n, C]`` and ``[n]``, the samples' own classes.
    """

    def __init__(self, last: FeatureMap, logits: Tensor, targets: Tensor) -> None:
        self.last, self.logits, self.targets = last, logits, targets
        self.maps = last.arranged(last.tensor)

    def grad_cam(self) -> Tensor:
        """ReLU(Σ_k a_k A_k) ``[n, 1, h, w]``, a_k the mean over the map of the gradient of the class's logit."""
        return F.relu(self._weighted(self._own()))

    def evidence(self) -> Tensor:
        """E = Σ_k a_k A_k ``[n, 1, h, w]``, a_k the mean over the map of the gradient of the class's log-odds."""
        others = self.logits.scatter(1, self.targets[:, None], -math.inf)
        if others.shape[1] == 1:
            return torch.zeros_like(self.maps[:, :1])
        return self._weighted(self._own() - others.logsumexp(1))

    def _own(self) -> Tensor:
        return self.logits.gather(1, self.targets[:, None])[:, 0]

    def _weighted(self, y: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(y.sum(), self.last.tensor, create_graph=True)
        a = self.last.arranged(gradient).mean((2, 3), keepdim=True)
        return (a * self.maps).sum(1, keepdim=True)


@contextmanager
def watching(n: int) -> Iterator[Callable[[Tensor, Tensor], Saliency]]:
    """Watch one forward pass of ``n`` pictures; what is given makes a `Saliency` of its logits and the targets."""
    from everlearn.explainers import layers  # explainers know learners: not before both are there

    with layers.watching(n) as last:
        yield lambda logits, targets: Saliency(last(), logits, targets)


def shares(maps: Tensor) -> Tensor:
    """Each map ``[n, 1, h, w]`` over its own sum; a map without energy stays zero.

    Examples
    --------
    >>> shares(torch.tensor([[[[3.0, 1.0]]], [[[0.0, 0.0]]]])).flatten(1)
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]])
    """
    total = maps.sum((1, 2, 3), keepdim=True)
    return maps / torch.where(total > 0, total, 1.0)
