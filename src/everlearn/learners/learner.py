"""What all learners share: classes in order of discovery, one optimisation step, prediction, a state to resume from.

A method is a subclass with its own `observe`, read top to bottom in its paper's order; everything here serves it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.averaged import AveragedModel
from everlearn.learners.classes import Classes
from everlearn.learners.momentum import MomentumTeacher
from everlearn.learners.optimizer_state import flatten, pad, unflatten
from everlearn.learners.options import Options
from everlearn.memory import Memory, Remembered
from everlearn.models import Model, NearestClassMean

_MEASURED = 50
"""Batches that BatchNorm is measured on, where an average predicts."""


@dataclass(frozen=True)
class StepReport:
    """What one step did: the learner's step number, the loss (a tensor, read when wanted) and the samples taken in."""

    step: int
    loss: Tensor
    samples: int


@dataclass(frozen=True)
class Prediction:
    """Probabilities ``[n, C]`` over the classes seen so far, in order of discovery, and the classes' label codes."""

    probabilities: Tensor
    codes: list[int]

    @property
    def labels(self) -> Tensor:
        """``[n]`` label codes of the most probable classes."""
        return torch.tensor(self.codes, device=self.probabilities.device)[self.probabilities.argmax(1)]

    @property
    def confidence(self) -> Tensor:
        """``[n]`` probabilities of the most probable classes."""
        return self.probabilities.amax(1)


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
    """

    needs_tasks: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset({"loss", "augment", "views", "review", "mkd", "average"})

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
        self.memory = Memory(memory, self.device) if isinstance(memory, int) else memory
        self.replay = replay
        self.classifier = classifier
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(self.device))
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.classes = Classes()
        self.step = 0
        self.samples_seen = 0
        self.task: int | None = None
        self.old = 0
        self.teacher = MomentumTeacher(self.model, self.options.mkd) if self.options.mkd else None
        self.averaged = AveragedModel(self.model, self.options.average) if self.options.average else None
        self._forwards = 0  # training passes within this step
        self._means: NearestClassMean | None = None

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch: one optimisation step, and memory is offered the samples."""
        raise NotImplementedError

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
        """What the learning model says of a batch that is observed next; None where that costs far more than a step."""
        if self.classifier == "ncm":
            return None
        return Prediction(self.model.head(self.encode(inputs)).softmax(1).detach(), list(self.classes.codes))

    def logits(self, inputs: Tensor) -> Tensor:
        """Float32 logits ``[n, classes]`` of the classifier that predicts, in whatever mode the model is in."""
        with self._autocast():
            features = self._predicting_features(inputs)
        if self.classifier == "ncm":
            return self._class_means()(features)
        weights = self._predicting_weights()
        if weights is None:
            return self.model.head(features.float())
        return F.linear(features.float(), weights["head.weight"], weights["head.bias"])

    def as_classifier(self) -> nn.Module | None:
        """The classifier that predicts, from features to logits, as a module of its own; None where there is none."""
        return self._class_means() if self.classifier == "ncm" else self.predicting_model().head

    def predicting_model(self) -> Model:
        """The model; where other weights than its own predict, a copy that holds them."""
        with self.evaluating(), self._autocast():
            weights = self._predicting_weights()
        if weights is None:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(weights)
        return model

    def features(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Features ``[n, d]`` of the weights that predict, in evaluation mode, without gradient, float32."""
        return self._in_chunks(self._predicting_features, inputs, chunk)

    def encode(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Features as `features` gives them, but of the model that learns, where another predicts."""
        return self._in_chunks(lambda part: self.model.features(self._to_layout(part)), inputs, chunk)

    def end_task(self) -> None:
        """Called where a task or the stream ends, before evaluation: the review over memory, where it is wanted."""
        if self.options.review and self.memory.size:
            self._review(self.options.review)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides what happens next, as tensors by name; `load_state_dict` restores it to the bit."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"memory.{name}": tensor for name, tensor in self.memory.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in flatten(self.optimizer).items()}
        state["learner.codes"] = torch.tensor(self.classes.codes, dtype=torch.int64)
        state["learner.generator"] = self.generator.get_state()
        state["learner.counts"] = torch.tensor([self.step, self.samples_seen])
        if self.task is not None:
            state["learner.task"] = torch.tensor([self.task, self.old])
        for part, follower in (("teacher", self.teacher), ("averaged", self.averaged)):
            if follower is not None:
                state |= {f"{part}.{name}": tensor for name, tensor in follower.state_dict().items()}
        return state | {f"rule.{name}": tensor for name, tensor in self.rule_state().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, into a learner built with the same settings."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        self.classes = Classes(parts["learner"]["codes"].tolist())
        self.model.head.grow(len(self.classes.codes), torch.Generator())
        self.model.load_state_dict(parts["model"])
        self.memory.load_state_dict(parts["memory"])
        unflatten(self.optimizer, parts.get("optimizer", {}))
        self.generator.set_state(parts["learner"]["generator"])
        self.step, self.samples_seen = parts["learner"]["counts"].tolist()
        self.task, self.old = parts["learner"]["task"].tolist() if "task" in parts["learner"] else (None, 0)
        for name, follower in (("teacher", self.teacher), ("averaged", self.averaged)):
            if follower is not None:
                follower.grow(self.model)
                follower.load_state_dict(parts[name])
        self._forget_derived()
        self.load_rule_state(parts.get("rule", {}))

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
        if batch.task is not None and batch.task != self.task:
            self.task, self.old = batch.task, len(self.classes.codes)
        targets = self.classes.indices(batch.labels)
        if len(self.classes.codes) > self.model.head.n_classes:
            self.model.head.grow(len(self.classes.codes), self.generator)
            pad(self.optimizer, [self.model.head.weight, self.model.head.bias])
            for follower in self._followers():
                follower.grow(self.model)
        return batch.inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def recall(self, slots: Tensor) -> Remembered:
        """Take the samples in the given slots out of memory."""
        return self.memory.take(slots)

    def train_step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One forward, one backward, one step on the mean cross-entropy; returns the loss without reading it."""
        if self.options.views > 1:
            inputs, targets = inputs.repeat(self.options.views, 1, 1, 1), targets.repeat(self.options.views)
        seen = self.augmented(inputs)
        logits = self.model.head(self.embed(seen))
        loss = self.options.cross_entropy(logits, targets, self.old)
        if self.teacher is not None:
            loss = loss + self.distillation(inputs, seen, logits)
        return self.descend(loss)

    def embed(self, inputs: Tensor) -> Tensor:
        """Float32 features ``[n, d]`` with gradient, in training mode: a training step's forward pass."""
        self.model.train()
        if len(inputs) == 1:  # one sample has no statistics of its own: BatchNorm takes its running ones
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        with self._seeded(), self._autocast():
            return self.model.features(self._to_layout(inputs)).float()

    def descend(self, loss: Tensor) -> Tensor:
        """One backward pass and one step of the optimiser; returns the loss without reading it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for follower in self._followers():
            follower.follow(self.model)
        return loss.detach()

    def augmented(self, inputs: Tensor) -> Tensor:
        """The pictures as the step sees them: with the ``augment`` option drawn anew, else as they are."""
        augment = self.options.augmentation
        return inputs if augment is None else augment(inputs, self.generator)

    def distillation(self, inputs: Tensor, seen: Tensor, logits: Tensor) -> Tensor:
        """What ``mkd`` adds to the loss: the model saw ``seen``, which is ``inputs`` augmented, and gave ``logits``."""
        assert self.teacher is not None
        views = inputs if seen is inputs else torch.cat([inputs, seen])
        with torch.no_grad():
            with self._autocast():
                features = self.teacher.model.features(self._to_layout(views))
            taught = self.teacher.model.head(features.float())
        return self.teacher.loss(taught, logits)

    def finish(self, batch: Batch, loss: Tensor) -> StepReport:
        """Count the batch and report."""
        self.step += 1
        self.samples_seen += len(batch)
        self._forget_derived()
        return StepReport(self.step, loss, len(batch))

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
        with torch.random.fork_rng(devices=_accelerators(self.device), device_type=_kind(self.device)):
            torch.manual_seed(((self.seed << 32) + self.step) ^ (self._forwards * 0x9E3779B97F4A7C15 % 2**63))
            self._forwards += 1
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _to_layout(self, inputs: Tensor) -> Tensor:
        return self.model.normalise(inputs).contiguous(memory_format=torch.channels_last)

    def _review(self, share: float) -> None:
        """One pass over memory at a share of the learning rate."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= share
        order = torch.randperm(self.memory.size, generator=self.generator).to(self.device)
        for slots in order.split(2 * self.replay):
            m = self.recall(slots)
            self.train_step(m.inputs, m.targets)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
        self._forget_derived()

    def _followers(self) -> list[MomentumTeacher | AveragedModel]:
        return [follower for follower in (self.teacher, self.averaged) if follower is not None]

    def _forget_derived(self) -> None:
        self._means, self._forwards = None, 0
        for follower in self._followers():
            follower.changed()

    def _in_chunks(self, network: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int) -> Tensor:
        with self.evaluating(), self._autocast():
            parts = [network(part.to(self.device)) for part in inputs.split(chunk)]
        return torch.cat(parts).float() if parts else torch.zeros(0, self.model.feature_dim, device=self.device)

    def _predicting_weights(self) -> dict[str, Tensor] | None:
        """Of the whole model by name, where it is not the learning model that predicts."""
        if self.averaged is not None:
            return self.averaged.weights(self.model, self._remembered_batches())
        return None if self.teacher is None else self.teacher.means(self.model)

    def _predicting_features(self, inputs: Tensor) -> Tensor:
        x, weights = self._to_layout(inputs), self._predicting_weights()
        if weights is None:
            return self.model.features(x)
        own = {name.removeprefix("backbone."): t for name, t in weights.items() if name.startswith("backbone.")}
        return functional_call(self.model.backbone, own, (x,)).flatten(1)

    def _remembered_batches(self) -> Iterator[Tensor]:
        """As steps see them: one half drawn out of all of memory, the other out of the newest tenth of it."""
        memory, rng = self.memory, torch.Generator().manual_seed(self.seed)
        if memory.size < 2:
            return
        order = torch.randperm(memory.size, generator=rng).to(self.device)
        newest = memory.steps[: memory.size].argsort(descending=True, stable=True)[: math.ceil(memory.size / 10)]
        for slots in order.split(self.replay)[:_MEASURED]:
            recent = torch.randint(len(newest), (len(slots),), generator=rng).to(self.device)
            yield self._to_layout(memory.take(torch.cat([slots, newest[recent]])).inputs)

    def _class_means(self) -> NearestClassMean:
        if self._means is None:
            memory = self.memory
            self._means = NearestClassMean(self.model.feature_dim).to(self.device)
            held = torch.arange(memory.size, device=self.device)
            with torch.inference_mode(False):  # gradients may be wanted through them later
                features = self.features(memory.take(held).inputs)
                self._means.fit(features, memory.targets[: memory.size], len(self.classes.codes))
        return self._means


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _accelerators(device: torch.device) -> list[Any]:
    return [] if device.type == "cpu" else [device.index or 0]


def _kind(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type


def as_network(learner: Learner) -> nn.Module:
    """The learner's model as explainers take it: normalised floats in, logits over the classes seen out."""
    return learner.model
