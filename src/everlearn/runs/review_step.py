"""How one review is learned: one gentle step of the learner's own method, remembered, and rehearsed until it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from everlearn.data import Batch
from everlearn.learners import Learner
from everlearn.learners.reasons import take_maps
from everlearn.runs.reviews import REVIEW_IDS

GENTLE = 0.1
"""Share of the learning rate: one sample repeated at a stream's full rate would push out what is known."""


def learn_review(learner: Learner, picture: torch.Tensor, code: int, id_: int, *, correction: bool) -> float:
    """Learn one reviewed sample.

    It is learned like any sample of the stream, at a tenth of the learning rate, and enters memory for certain,
    whatever the method's policy left to chance, in the place of a sample of the largest class that no expert has looked
    at. A correction is an expert's word against the model's: it is rehearsed by the method's own rule
    (`Learner.rehearse`) until it holds (`Learner.holds`) or the method's bound is reached, each time a tenth less
    gently, up to half the learning rate.

    Parameters
    ----------
    learner : Learner
        Changed in place, by exactly one step, whose draws come from its own generator: the same bits every time.
    picture : Tensor
        ``[C, H, W]`` uint8.
    code : int
        Label code.
    id_ : int
        The sample's id, `REVIEW_IDS` plus the review's number.
    correction : bool
        Whether the model had it wrong.

    Returns
    -------
    float
        The step's loss.

    Examples
    --------
    >>> from everlearn.learners import ER
    >>> from everlearn.models import Model
    >>> from torch import nn
    >>> torch.manual_seed(0) and None
    >>> learner = ER(Model(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), 4), memory=8, replay=2)
    >>> loss = learn_review(learner, torch.zeros(1, 4, 4, dtype=torch.uint8), 7, REVIEW_IDS + 1, correction=True)
    >>> learner.step, learner.samples_seen, learner.predict(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)).labels.tolist()
    (1, 1, [7])
    """
    batch = Batch(picture[None], torch.tensor([code]), torch.tensor([id_]), learner.task)
    with _gently(learner) as rates:
        loss = float(learner.observe(batch).loss)
        _remember(learner, batch)
        if correction:
            _rehearse(learner, batch, rates)
            learner.renew(_slots_of(learner, [id_]))
    if learner.reasons is not None:
        take_maps(learner)  # perhaps no border comes any more
    return loss


def forget(learner: Learner, ids: list[int]) -> int:
    """Take samples out of a learner's memory; its weights stay. Returns how many were there."""
    slots = _slots_of(learner, ids)
    if len(slots):
        learner.drop(slots)
    return len(slots)


def _slots_of(learner: Learner, ids: list[int]) -> torch.Tensor:
    memory = learner.memory
    wanted = torch.tensor(ids, dtype=torch.int64, device=memory.device)
    return torch.isin(memory.ids[: memory.size], wanted).nonzero().flatten()


def _rehearse(learner: Learner, batch: Batch, rates: list[float]) -> None:
    x, y = learner.receive(batch)
    dear = learner.averaged is not None or learner.classifier == "ncm"  # a prediction is a pass over memory then
    for i in range(learner.rehearsals):
        if not (dear and i & (i - 1)) and learner.holds(x, y):  # where it is dear, after 0, 1, 2, 4, 8 … steps
            return
        learner.rehearse(x, y)
        for group, most in zip(learner.optimizer.param_groups, rates):
            group["lr"] = min(1.1 * group["lr"], most / 2)


@contextmanager
def _gently(learner: Learner) -> Iterator[list[float]]:
    """A tenth of the learning rates; gives the full ones, which hold again afterwards."""
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    for group in learner.optimizer.param_groups:
        group["lr"] *= GENTLE
    try:
        yield rates
    finally:
        for group, rate in zip(learner.optimizer.param_groups, rates):
            group["lr"] = rate


def _remember(learner: Learner, batch: Batch) -> None:
    memory = learner.memory
    ids, targets = memory.ids[: memory.size], memory.targets[: memory.size]
    if bool((ids == int(batch.ids[0])).any()):
        return
    target, step = learner.classes.indices(batch.labels), learner.step - 1  # the one that has just been taken
    if not memory.full:
        memory.append(batch.inputs, target, batch.ids, step)
        learner.renew(_slots_of(learner, batch.ids.tolist()))
        return
    unreviewed = ids < REVIEW_IDS
    pool = unreviewed if bool(unreviewed.any()) else torch.ones_like(unreviewed)
    counts = torch.bincount(targets[pool], minlength=memory.n_classes)
    slots = torch.nonzero(pool & (targets == counts.argmax())).flatten()
    slot = slots[torch.randint(len(slots), (1,), generator=learner.generator).to(slots.device)]
    memory.write(slot, batch.inputs, target, batch.ids, step, classes=len(learner.classes.codes))
    learner.renew(slot)
