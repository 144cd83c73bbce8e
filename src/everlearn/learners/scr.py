"""SCR: supervised contrastive replay.

Mai, Li, Kim, Sanner 2021, *Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online
Class-Incremental Continual Learning* (CVPR workshops 2021, arXiv 2103.13885).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.learner import Learner, StepReport
from everlearn.learners.losses import supervised_contrastive
from everlearn.learners.results import Prediction
from everlearn.learners.review import copies_of
from everlearn.memory import reservoir
from everlearn.models import Model


class SCR(Learner):
    """A contrastive loss draws incoming and replayed samples, plain and augmented, together by class.

    It works on projections, two layers behind the features. The nearest class mean predicts; the linear head is never
    trained.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`. The projection's weights are added to the optimiser.
    replay : int
        Samples drawn from memory for each step; the paper takes 100.
    classifier : {"ncm"}
        The only one that fits.
    temperature : float
        τ of the loss.
    projection : int
        Dimensions of the projections.
    augment : str, optional
        Of the second view; None takes the same view twice.
    """

    takes = frozenset({"iterations", "augment", "average"})
    newest = 0.1

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        replay: int = 100,
        classifier: str = "ncm",
        temperature: float = 0.07,
        projection: int = 128,
        augment: str | None = "resized_crop,flip,colour,grey",
        **settings: Any,
    ) -> None:
        if classifier != "ncm":
            raise SettingError(f"classifier is {classifier!r}; SCR trains no linear head: set classifier to 'ncm'")
        if temperature <= 0 or projection < 1:
            raise SettingError(f"temperature is {temperature} and projection {projection}; expected both above 0")
        super().__init__(model, optimizer, replay=replay, classifier=classifier, augment=augment, **settings)
        self.temperature = temperature
        d = model.feature_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.project = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, projection)).to(self.device)
        self.optimizer.add_param_group({"params": list(self.project.parameters())})

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self._contrastive_step(x, y)
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def _contrastive_step(self, x: Tensor, y: Tensor) -> Tensor:
        inputs, targets = x, y
        if self.memory.size:
            m = self.recall(self.memory.draw(self.replay, self.generator))
            inputs, targets = torch.cat([m.inputs, x]), torch.cat([m.targets, y])
        views = torch.cat([inputs, self.augmented(inputs)])
        z = F.normalize(self.project(self.embed(views)), dim=1)
        return self.descend(supervised_contrastive(z, targets.repeat(2), self.temperature))

    def look(self, inputs: Tensor) -> Prediction | None:
        """Nothing: no head is trained, and class means would have to be computed anew for every batch."""
        return None

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """One contrastive step."""
        self._contrastive_step(*copies_of(x, y))

    def rule_state(self) -> dict[str, Tensor]:
        """The projection's weights."""
        return {name: w.detach().clone() for name, w in self.project.state_dict().items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        self.project.load_state_dict(state)
