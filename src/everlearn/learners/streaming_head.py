"""What the methods share that keep the backbone as it is and learn a closed-form head from running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.data.samples import Batch
from everlearn.errors import SettingError
from everlearn.learners.learner import Learner, Prediction, StepReport
from everlearn.learners.review import is_likeliest
from everlearn.memory import reservoir
from everlearn.models import Model

_LOOKING = "looking."
_FELT = 100  # a rehearsal weighs as one sample among so many of a class, at least


class StreamingHead(Learner):
    """Features never change: every sample is looked at once, nothing is forgotten, the order does not matter.

    The optimiser is not used. A reservoir is kept for evidence.

    Parameters
    ----------
    model, optimizer, **settings
        As for `Learner`; best with a pretrained backbone.
    inputs : {"backbone", "raw"}
        What the head sees: the backbone's features, or the normalised pixels.
    """

    takes = frozenset[str]()
    rehearsals = 10

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        inputs: str = "backbone",
        classifier: str = "linear",
        **settings: Any,
    ) -> None:
        if inputs not in ("backbone", "raw"):
            raise SettingError(f"inputs is {inputs!r}; expected 'backbone' or 'raw'")
        if classifier != "linear":
            raise SettingError(f"{type(self).__name__} is a classifier of its own; leave classifier at 'linear'")
        super().__init__(model, optimizer, classifier=classifier, **settings)
        self.inputs = inputs
        self.sums: dict[str, Tensor] = {}  # what was added up so far: all of the method's state
        self._solved: tuple[Tensor, Tensor] | None = None
        self._looking: dict[str, Tensor] = {}  # W and b that `look` takes, and the step at which they were solved for
        self._ahead: tuple[Tensor, Tensor] | None = None  # inputs looked at before they are observed, and features

    def observe(self, batch: Batch) -> StepReport:
        """Take in one batch."""
        x, y = self.receive(batch)
        ahead, self._ahead = self._ahead, None
        f = ahead[1] if ahead is not None and ahead[0] is batch.inputs else self.features(x)
        f, y_all = self.group.gather(f.to(precise(self.device))), self.group.gather(y)
        loss = self.add(f, y_all)  # of several processes each adds up everyone's
        reservoir(self.memory, x, y, batch.ids, self.step, self.generator, classes=len(self.classes.codes))
        return self.finish(batch, loss)

    def stand_by(self, batch: Batch) -> StepReport:
        """Add what the others have."""
        return self.observe(batch)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """Add a corrected sample once more, or as often as makes it felt: the sums are all that learns."""
        times = max(1, self.samples_seen // (_FELT * len(self.classes.codes)))
        self.add(self.features(x).to(precise(self.device)).expand(times, -1), y.expand(times))
        self.forget_derived()

    def holds(self, x: Tensor, y: Tensor) -> bool:
        """Whether the class is the likeliest: not all of these heads give odds that say more."""
        return is_likeliest(self, x, y, 0.0)

    def add(self, f: Tensor, y: Tensor) -> Tensor:
        """Add features ``[n, d]`` of classes ``[n]`` to the sums; returns a loss to report."""
        raise NotImplementedError

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weights ``[d, C]`` and bias ``[C]`` from the sums."""
        raise NotImplementedError

    def lift(self, f: Tensor) -> Tensor:
        """What the weights are for: the features themselves, unless a method maps them on."""
        return f

    def look(self, inputs: Tensor) -> Prediction | None:
        """Probabilities of a batch that is observed next; its features are computed once for both.

        The weights are those last solved for. They are solved for again where a class is new, and every d / 6n steps: a
        factorisation of d² sums takes d³ / 3 operations, adding n samples to them 2nd², so that looking costs less than
        learning. Weights and step are part of the state, and so a resumed run sees what one never stopped does.
        """
        f = self.features(inputs)
        self._ahead = inputs, f
        held = self._looking
        stale = not held or len(held["b"]) < len(self.classes.codes)
        if stale or self.step - int(held["step"]) >= self._interval(len(inputs)):
            self._classify(f[:0])  # solves, where nobody has since the last step
            assert self._solved is not None
            W, b = self._solved
            # contiguous, as a checkpoint gives them back: the bits of a product depend on it
            held = self._looking = {"W": W.contiguous(), "b": b.contiguous(), "step": torch.tensor(self.step)}
        return Prediction((self.lift(f) @ held["W"] + held["b"]).softmax(1), list(self.classes.codes))

    def _interval(self, n: int) -> int:
        """Steps of n samples from one solution for `look` to the next."""
        factored = [len(t) for t in self.sums.values() if t.ndim == 2 and t.shape[0] == t.shape[1]]
        return -(-max(factored, default=1) // (6 * max(1, n)))

    def as_classifier(self) -> nn.Module | None:
        """What the sums amount to, on the backbone's features."""
        if self.inputs == "raw":
            return None
        self._classify(torch.zeros(1, self.model.feature_dim, device=self.device))
        assert self._solved is not None
        return _Solved(self.lift, *self._solved)

    def logits(self, inputs: Tensor) -> Tensor:
        """Float32 logits ``[n, classes]``."""
        return self._classify(self._embedded(inputs).float())

    def _classify(self, f: Tensor) -> Tensor:
        if self._solved is None:
            with torch.inference_mode(False), torch.no_grad():  # gradients may be wanted through them later
                W, b = self.solve()
                self._solved = W.float(), b.float()
        W, b = self._solved
        return self.lift(f) @ W + b

    def features(self, inputs: Tensor, chunk: int = 256) -> Tensor:
        """Float32 features ``[n, d]`` in evaluation mode, without gradient: the backbone's, or normalised pixels."""
        with self.evaluating():
            parts = [self._embedded(part.to(self.device)) for part in inputs.split(chunk)]
        return torch.cat(parts).float() if parts else super().features(inputs, chunk)

    def _embedded(self, inputs: Tensor) -> Tensor:
        if self.inputs == "raw":
            return self.model.normalise(inputs).flatten(1)
        with self.autocast():
            return self.model.features(self.to_layout(inputs))

    def forget_derived(self) -> None:
        """As for every learner; weights are solved for anew."""
        super().forget_derived()
        self._solved = None

    def rule_state(self) -> dict[str, Tensor]:
        """The sums, and what `look` goes by."""
        looking = {_LOOKING + name: t for name, t in self._looking.items()}
        return {name: t.clone() for name, t in (self.sums | looking).items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rule_state` gave."""
        held = {name: t.clone().to(self.device) for name, t in state.items()}
        self.sums = {name: t for name, t in held.items() if not name.startswith(_LOOKING)}
        self._looking = {name.removeprefix(_LOOKING): t for name, t in held.items() if name.startswith(_LOOKING)}
        if self._looking:
            self._looking["step"] = self._looking["step"].cpu()  # read at each look


class _Solved(nn.Module):
    """logits = lift(f) W + b."""

    def __init__(self, lift: Callable[[Tensor], Tensor], W: Tensor, b: Tensor) -> None:
        super().__init__()
        self.lift = lift
        self.W, self.b = nn.Parameter(W, requires_grad=False), nn.Parameter(b, requires_grad=False)

    def forward(self, f: Tensor) -> Tensor:
        return self.lift(f) @ self.W + self.b


def precise(device: torch.device) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def rows(held: Tensor | None, n_classes: int, like: Tensor) -> Tensor:
    """Sums by class ``[C, …]`` with zeros for the classes that are new; ``like`` gives the shape of a row and the type.

    Examples
    --------
    >>> import torch
    >>> rows(torch.ones(1, 2), 3, torch.zeros(2)).tolist()
    [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    if held is None:
        return like.new_zeros(n_classes, *like.shape)
    return torch.cat([held, held.new_zeros(n_classes - len(held), *held.shape[1:])])
