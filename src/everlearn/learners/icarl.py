"""iCaRL: incremental classifier and representation learning.

Rebuffi, Kolesnikov, Sperl, Lampert 2017, *iCaRL: Incremental Classifier and Representation Learning* (CVPR 2017, arXiv
1611.07725).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.frozen_copy import frozen_copy, restored_copy
from everlearn.learners.learner import Learner, StepReport
from everlearn.learners.review import REPLAY, copies_of
from everlearn.memory import ClassBalanced
from everlearn.models import Model


class ICaRL(Learner):
    """Binary cross-entropy to labels for new classes and to the past model's outputs for old ones; class means predict.

    Needs task borders. The paper picks exemplars by herding over all samples of a class, which one pass does not allow:
    here they are a uniform sample of equally many for each class (`ClassBalanced`).

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`.
    classifier : {"ncm"}
        The only one that fits.
    """

    needs_tasks = True
    takes = frozenset({"iterations", "augment"})
    own = ("exemplars.",)

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        classifier: str = "ncm",
        **settings: Any,
    ) -> None:
        if classifier != "ncm":
            raise SettingError(f"classifier is {classifier!r}; iCaRL predicts by class means: set classifier to 'ncm'")
        super().__init__(model, optimizer, classifier=classifier, **settings)
        self.exemplars = ClassBalanced()
        self.past: Model | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self._binary_step(x, y, self.replay)
        targets, classes = self.classes.indices(batch.labels), len(self.classes.codes)
        self.exemplars(self.memory, x, targets, batch.ids, self.step, self.generator, classes=classes)
        return self.finish(batch, loss)

    def _binary_step(self, x: Tensor, y: Tensor, replay: int, certain: int = 0) -> Tensor:
        """One step on the batch and ``replay`` of memory; the past model is not asked of the last ``certain``."""
        inputs, targets = x, y
        if self.memory.size:
            m = self.recall(self.memory.draw(replay, self.generator))
            inputs, targets = torch.cat([m.inputs, x]), torch.cat([m.targets, y])
        seen = self.augmented(inputs)
        logits = self.model.head(self.embed(seen))
        q = F.one_hot(targets, logits.shape[1]).float()
        if self.past is not None:
            with torch.no_grad(), self.autocast():
                f = self.past.features(self.to_layout(seen))
            asked = slice(0, len(q) - certain)
            q[asked, : self.old] = self.past.head(f.float())[asked, : self.old].sigmoid()
        loss = F.binary_cross_entropy_with_logits(logits, q, reduction="none").sum(1).mean()
        return self.descend(loss)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """One binary step, in which the expert's word stands against the past model's."""
        xs, ys = copies_of(x, y)
        self._binary_step(xs, ys, REPLAY, certain=len(ys))

    def begin_task(self) -> None:
        """Keep the model as the task finds it."""
        self.past = frozen_copy(self.model) if self.old else None

    def join_own(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Counts of what came add up; a class that was ever the largest anywhere was so."""
        came = [part["exemplars.came"] for part in parts]
        most = max(len(counts) for counts in came)
        total = torch.stack([F.pad(counts, (0, most - len(counts))) for counts in came]).sum(0)
        return {"exemplars.came": total, "exemplars.full": torch.cat([p["exemplars.full"] for p in parts]).unique()}

    def deal_own(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """An even part of the counts."""
        came = torch.tensor([self.group.share(n) for n in own["exemplars.came"].tolist()], dtype=torch.int64)
        return {"exemplars.came": came, "exemplars.full": own["exemplars.full"]}

    def rule_state(self) -> dict[str, Tensor]:
        """The model as the task found it, and the policy's counts."""
        past = {} if self.past is None else {f"past.{name}": w.clone() for name, w in self.past.state_dict().items()}
        return past | {f"exemplars.{name}": t for name, t in self.exemplars.state_dict().items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        past = {name.removeprefix("past."): t for name, t in state.items() if name.startswith("past.")}
        self.past = restored_copy(self.model, past) if past else None
        counts = {name.removeprefix("exemplars."): t for name, t in state.items() if name.startswith("exemplars.")}
        self.exemplars.load_state_dict(counts)
