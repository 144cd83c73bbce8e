"""What all learners share: classes in order of discovery, one optimisation step, prediction, a state to resume from.

A method is a subclass with its own `observe`, read top to bottom in its paper's order; everything here serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.averaged import AveragedModel
from everlearn.learners.classes import Classes
from everlearn.learners.device import default_device, drawing_from, fast_bfloat16, mixed
from everlearn.learners.follower import Follower
from everlearn.learners.group import Group
from everlearn.learners.momentum import MomentumTeacher
from everlearn.learners.optimizer_state import pad
from everlearn.learners.options import Options
from everlearn.learners.predicting import class_means, features_of, predicting_model, weights_of
from everlearn.learners.reasons import Reasons, marked, take_maps, watching
from everlearn.learners.results import Prediction, StepReport
from everlearn.learners.review import is_likeliest, rehearse, review
from everlearn.learners.shared_batchnorm import shared_batchnorm
from everlearn.learners.slots import without
from everlearn.learners.state import restore, state_of
from everlearn.learners.together import gradients_of_all, told
from everlearn.memory import Memory, Remembered
from everlearn.models import Model, NearestClassMean


class Learner:
    """A model, a memory and a rule.

    Parameters
    ----------
    model : Model
        Moved to ``device``, in channels-last layout.
    optimizer : torch.optim.Optimizer, optional
        Over ``model.parameters()``; by default plain SGD with learning rate 0.1.
    memory : int or Memory
        The bound on remembered samples.
    replay : int
        Samples taken from memory for each step.
    classifier : {"linear", "ncm"}
        What predicts: the trained head, or the nearest class mean over memory's features.
    precision : {"auto", "float32", "bfloat16"}
        Of forward and backward passes; weights stay float32. "auto" takes bfloat16 where the processor computes in it.
    seed : int
        Of the learner's own draws.
    device : torch.device or str, optional
        By default an accelerator where there is one.
    group : Group, optional
        The processes that learn together, each with its own batches of the same task: memory is shared out, gradients
        are averaged, new classes get the same index everywhere. By default this process learns alone.
    **options
        Settings that combine with many methods: ``loss``, ``augment``, ``review`` and more: see `Options`.

    Attributes
    ----------
    needs_tasks : bool
        Whether the method must know where a task ends; it then refuses batches whose task is None.
    takes : frozenset of str
        The options that the method allows.
    task : int or None
        The task of the last batch, where the stream has borders.
    old : int
        Classes known when that task began: their indices are below it.
    alone : bool
        Whether the method's rule needs all of memory in one process; it then refuses a group of several.
    newest : float
        Incoming samples of a usual step for each replayed one.
    rehearsals : int
        Steps at most in which a corrected sample is rehearsed.
    slotwise, own : frozenset or tuple of str
        Of a rule's state: what has a row for each slot of memory, and beginnings of the names of what belongs to each
        process alone. All the rest is the same in all processes.
    """

    needs_tasks: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset(
        {"loss", "augment", "views", "review", "mkd", "average", "rrr", "region", "frames"}
    )
    alone: ClassVar[bool] = False
    newest: ClassVar[float] = 1.0
    rehearsals: ClassVar[int] = 40
    slotwise: ClassVar[frozenset[str]] = frozenset()
    own: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        memory: int | Memory = 1000,
        replay: int = 10,
        classifier: str = "linear",
        precision: str = "auto",
        seed: int = 0,
        device: torch.device | str | None = None,
        group: Group | None = None,
        **options: Any,
    ) -> None:
        if classifier not in ("linear", "ncm"):
            raise SettingError(f"classifier is {classifier!r}; expected 'linear' or 'ncm'")
        if precision not in ("auto", "float32", "bfloat16"):
            raise SettingError(f"precision is {precision!r}; expected 'auto', 'float32' or 'bfloat16'")
        if replay < 1:
            raise SettingError(f"replay is {replay}; expected 1 or more samples")
        self.options = Options.of(options, type(self).__name__, self.takes)
        self.device = torch.device(device or default_device())
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not {id(model.head.weight), id(model.head.bias)} <= held:
            raise SettingError("the optimiser does not hold the head; build it over everlearn's model.parameters()")
        self.group = group or Group()
        if self.alone and not self.group.alone:
            raise SettingError(
                f"{type(self).__name__} trains on all of memory at once, which several processes share out: "
                "take one process, or another method"
            )
        own = memory if isinstance(memory, Memory) else Memory(self.group.share_of_memory(memory), self.device)
        self.memory = own
        self.replay = replay
        self.classifier = classifier
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(self.device))
        self.seed = seed
        self.generator = torch.Generator().manual_seed(mixed(seed, self.group.rank) if self.group.rank else seed)
        self.classes = Classes()
        self.step = 0
        self.samples_seen = 0
        self.task: int | None = None
        self.old = 0
        self.stands_for = 0  # samples that this process's part of a step stands for
        self.teacher = MomentumTeacher(self.model, self.options.mkd) if self.options.mkd else None
        self.averaged = AveragedModel(self.model, self.options.average) if self.options.average else None
        rrr, region, frames = self.options.rrr, self.options.region, self.options.frames
        if (rrr or region or frames) and not self.group.alone:
            raise SettingError("rrr, region and frames learn in one process; leave them out, or several processes")
        self.reasons = Reasons(self.memory, rrr, region, frames) if rrr or region or frames else None
        self._forwards = 0  # training passes within this step
        self._arrived = 0  # samples of the step in all processes
        self.none = torch.zeros(0)  # no pictures, in the shape of pictures
        self.means: NearestClassMean | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch: one optimisation step, and memory is offered the samples."""
        raise NotImplementedError

    def stand_by(self, batch: Batch) -> StepReport:
        """Take part in a step of the other processes with a batch of no samples."""
        self.receive(batch)
        for _ in range(self.options.iterations):
            loss = self.descend(None)
        return self.finish(batch, loss)

    def predict(self, inputs: Tensor, chunk: int = 256) -> Prediction:
        """Probabilities over the classes seen so far.

        Parameters
        ----------
        inputs : Tensor
            ``[n, C, H, W]`` uint8, or floating point and then normalised already.
        chunk : int
            Inputs computed at once.
        """
        if not self.classes.codes:
            raise SettingError("nothing has been learned yet; observe a batch before predicting")
        with self.evaluating():
            logits = [self.logits(part.to(self.device)) for part in inputs.split(chunk)]
        probabilities = torch.cat(logits).softmax(1) if logits else torch.zeros(0, len(self.classes.codes))
        return Prediction(probabilities, list(self.classes.codes))

    def look(self, inputs: Tensor) -> Prediction | None:
        """What the learning model's head says of a batch that is observed next, also where class means predict.

        None where no head is trained along, or asking costs far more than a step.
        """
        return Prediction(self.model.head(self.encode(inputs)).softmax(1).detach(), list(self.classes.codes))

    def logits(self, inputs: Tensor) -> Tensor:
        """Float32 logits ``[n, classes]`` of the classifier that predicts, in whatever mode the model is in."""
        with self.autocast():
            features = features_of(self, inputs)
        if self.classifier == "ncm":
            return class_means(self)(features)
        weights = weights_of(self)
        if weights is None:
            return self.model.head(features.float())
        return F.linear(features.float(), weights["head.weight"], weights["head.bias"])

    def as_classifier(self) -> nn.Module | None:
        """The classifier that predicts, from features to logits, as a module of its own; None where there is none."""
        return class_means(self) if self.classifier == "ncm" else self.predicting_model().head

    def predicting_model(self) -> Model:
        """The model; where other weights than its own predict, a copy that holds them."""
        return predicting_model(self)

    def features(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Features ``[n, d]`` of the weights that predict, in evaluation mode, without gradient, float32."""
        return self._in_chunks(lambda part: features_of(self, part), inputs, chunk)

    def encode(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Features as `features` gives them, but of the model that learns, where another predicts."""
        return self._in_chunks(lambda part: self.model.features(self.to_layout(part)), inputs, chunk)

    def ready(self) -> None:
        """Compute what predictions rest on; where several processes learn, all call it before any of them predicts."""
        if self.classes.codes:
            with self.evaluating(), self.autocast():
                weights_of(self)
            if self.classifier == "ncm":
                class_means(self)

    def begin_task(self) -> None:
        """Called where a task begins, with the model as it finds it; for methods that need it."""

    def end_task(self) -> None:
        """Called where a task or the stream ends, before evaluation: the review over memory, where it is wanted."""
        if self.options.review:
            review(self, self.options.review)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """One more step on a corrected sample ``[1, C, H, W]`` of class ``[1]``, by the method's own rule."""
        rehearse(self, x, y)

    def holds(self, x: Tensor, y: Tensor) -> bool:
        """Whether a correction holds: the class is the likeliest, with more than even odds where a head is trained."""
        return is_likeliest(self, x, y, 0.0 if self.classifier == "ncm" else 0.5)

    def renew(self, slots: Tensor) -> None:
        """Make anew what is kept beside slots whose samples came past the method's own policy, or were rehearsed."""
        if self.reasons is not None:
            self.reasons.renew(slots)
        self.forget_derived()

    def drop(self, slots: Tensor) -> None:
        """Take the samples in slots out of memory, with what is kept beside them; the weights stay."""
        self.load_state_dict(without(self, slots))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides what happens next, as tensors by name; `load_state_dict` restores it to the bit."""
        return state_of(self)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, into a learner built with the same settings."""
        restore(self, state)

    def followers(self) -> dict[str, Follower]:
        """What follows the model's weights, by the name of its part of the state."""
        named: dict[str, Follower | None] = {"teacher": self.teacher, "averaged": self.averaged}
        return {name: follower for name, follower in named.items() if follower is not None}

    def join_own(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What a single process would have for what each of several had for itself (``own``); nothing if it can go."""
        return {}

    def deal_own(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of what `join_own` gave."""
        return {}

    def rule_state(self) -> dict[str, Tensor]:
        """State of the method itself, where it has any."""
        return {}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""

    # what the methods are built from

    def receive(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give new classes an index and the head a row; return inputs (bytes) and class indices on the device."""
        if batch.task is None and (self.needs_tasks or self.options.loss == "separated"):
            what = type(self).__name__ if self.needs_tasks else "loss 'separated'"
            raise SettingError(
                f"{what} needs a stream with task borders and this one has none; take a scenario with "
                "borders (class, time, site, task) or a method that needs none, such as er"
            )
        if self.reasons is not None:
            if batch.task is not None and batch.task != self.task:
                take_maps(self)  # of what the task that ended brought, as it is understood now
            self.reasons.receive(batch)
        if batch.task is not None and batch.task != self.task:
            self.task, self.old = batch.task, len(self.classes.codes)
            self.begin_task()
        codes = told(self, batch.labels)
        self.stands_for, self._arrived = len(batch), len(codes)
        self.none = batch.inputs[:0].to(self.device)
        self.classes.indices(codes)
        targets = self.classes.indices(batch.labels)
        known = self.model.head.n_classes
        if len(self.classes.codes) > known:
            self.model.head.grow(len(self.classes.codes), self.generator)
            self.group.broadcast([self.model.head.weight[known:], self.model.head.bias[known:]])
            pad(self.optimizer, [self.model.head.weight, self.model.head.bias])
            for follower in self.followers().values():
                follower.grow(self.model)
        return batch.inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def recall(self, slots: Tensor) -> Remembered:
        """Take the samples in the given slots out of memory."""
        return self.memory.take(slots)

    def train_step(self, inputs: Tensor, targets: Tensor, slots: Tensor | None = None) -> Tensor:
        """One forward, one backward, one step on the mean cross-entropy; returns the loss without reading it.

        The samples that stand first are memory's, in ``slots``; those behind them are the incoming batch.
        """
        if self.options.views > 1:
            inputs, targets = inputs.repeat(self.options.views, 1, 1, 1), targets.repeat(self.options.views)
        logits, added = self.forward(inputs, targets, slots)
        return self.descend(self.options.cross_entropy(logits, targets, self.old) + added)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        slots: Tensor | None = None,
        first: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A step's logits, and what ``mkd``, ``rrr`` and ``region`` add to its loss.

        Memory's samples stand from ``first`` on, in the order of ``slots``; the others are the incoming batch.
        Augmentation draws from ``generator``, by default the learner's own.
        """
        if self.reasons is None:
            seen = self.augmented(inputs, generator)
            logits = self.model.head(self.embed(seen))
            added = logits.new_zeros(())
        else:
            seen, marks = marked(self, inputs, slots, first, generator or self.generator)
            with watching(len(seen)) as saliency:
                logits = self.model.head(self.embed(seen))
            added = self.reasons.penalty(saliency(logits, targets), marks)
        if self.teacher is not None:
            added = added + self.distillation(inputs, seen, logits)
        return logits, added

    def embed(self, inputs: Tensor, together: bool = True) -> Tensor:
        """Float32 features ``[n, d]`` with gradient, in training mode: a training step's forward pass.

        Of several processes all make it at once, some perhaps with no samples, unless it is not made ``together``.
        """
        several = together and not self.group.alone
        self.model.train()
        n = int(self.group.total(torch.tensor(len(inputs)))) if several else len(inputs)
        if n < 2:  # one sample has no statistics of its own: BatchNorm takes its running ones
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        with self._seeded(), shared_batchnorm(several):
            return self.passed(inputs)

    def passed(self, inputs: Tensor) -> Tensor:
        """Float32 features ``[n, d]`` with their graph, in whatever mode the model is."""
        with self.autocast():
            return self.model.features(self.to_layout(inputs)).float()

    def descend(self, loss: Tensor | None) -> Tensor:
        """One backward pass and one step of the optimiser; returns the loss without reading it.

        Of several processes each calls it as often as the others, with None where it has nothing to learn from.
        """
        loss = self.gradients(loss)
        self.advance()
        return loss

    def advance(self) -> None:
        """One step of the optimiser along the gradients at hand; what follows the weights follows."""
        self.optimizer.step()
        self.means = None
        for follower in self.followers().values():
            follower.follow(self.model)
            follower.changed()

    def gradients(self, loss: Tensor | None) -> Tensor:
        """One backward pass. Gradients and the loss become their means over the samples of all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.group.alone:
            assert loss is not None
            loss.backward()
            return loss.detach()
        return gradients_of_all(self, loss)

    def augmented(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The pictures as the step sees them: with the ``augment`` option drawn anew, else as they are."""
        augment = self.options.augmentation
        return inputs if augment is None else augment(inputs, generator or self.generator)

    def distillation(self, inputs: Tensor, seen: Tensor, logits: Tensor) -> Tensor:
        """What ``mkd`` adds to the loss: the model saw ``seen``, which is ``inputs`` augmented, and gave ``logits``."""
        assert self.teacher is not None
        views = inputs if seen is inputs else torch.cat([inputs, seen])
        with torch.no_grad():
            with self.autocast():
                features = self.teacher.model.features(self.to_layout(views))
            taught = self.teacher.model.head(features.float())
        return self.teacher.loss(taught, logits)

    def finish(self, batch: Batch, loss: Tensor) -> StepReport:
        """Count the batch and report; memory has been offered its samples."""
        if self.reasons is not None:
            self.reasons.keep(batch.ids, self.step)
            if batch.task is None:
                take_maps(self)  # no border will tell when these have been learned
        self.step += 1
        self.samples_seen += self._arrived
        self.forget_derived()
        return StepReport(self.step, loss, self._arrived)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; afterwards the model's mode is as it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Dropout and its kin draw from a seed of this learner and step; the global random state stays as it was."""
        seed = mixed(self.seed, self.step, self._forwards, self.group.rank)
        self._forwards += 1
        with drawing_from(seed, self.device):
            yield

    def autocast(self) -> torch.autocast:
        """Where passes are computed in the learner's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def to_layout(self, inputs: Tensor) -> Tensor:
        """Inputs as the model takes them."""
        return self.model.prepare(inputs)

    def forget_derived(self) -> None:
        """Weights, memory or classes have changed: what was computed from them is computed anew when wanted."""
        self.means, self._forwards = None, 0
        for follower in self.followers().values():
            follower.changed()

    def _in_chunks(self, network: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int) -> Tensor:
        with self.evaluating(), self.autocast():
            parts = [network(part.to(self.device)) for part in inputs.split(chunk)]
        return torch.cat(parts).float() if parts else torch.zeros(0, self.model.feature_dim, device=self.device)
