"""The version in service, loaded to predict and to explain; a new one takes its place between two predictions."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from everlearn.errors import RunError, SettingError
from everlearn.explainers import Explanation, explain
from everlearn.explainers.words import words
from everlearn.learners import Learner
from everlearn.runs.build import build_learner
from everlearn.runs.config import Config
from everlearn.runs.reviews import Reviews
from everlearn.runs.versions import Versions
from everlearn.server.security import Refused

_POLL = 0.1
_EXPLANATIONS = 256
_IN_TURN = 8  # explanations asked for at once, far fewer than threads that answer requests: predictions come first
_TURN = 5  # seconds after which to ask again
_CALM, _PATIENCE = 0.02, 0.5  # seconds without a prediction; how long work behind the scenes waits for that at most
_PIECE = 16  # remembered pictures in one piece of work behind the scenes


@dataclass
class Served:
    """A version as it predicts: its number, its learner, the temperature of its probabilities, the classes' names."""

    number: int
    learner: Learner
    temperature: float
    names: dict[int, str]
    explains: Learner | None = None  # a copy: explainers hook into the model, which predictions must not notice
    novelty: tuple[Tensor, float] | None = field(default=None, repr=False)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Calibrated probabilities ``[n, classes]``."""
        raw = self.learner.predict(inputs).probabilities.cpu()
        return (raw.clamp(min=1e-30).log() / self.temperature).softmax(1)

    @property
    def classes(self) -> list[str]:
        """Names by class index."""
        return [self.names[code] for code in self.learner.classes.codes]


class Service:
    """Keeps the newest version in service loaded.

    Parameters
    ----------
    run : Path
    config : Config
    reviews : Reviews
        Of the run.
    versions : Versions
    """

    def __init__(self, run: Path, config: Config, reviews: Reviews, versions: Versions) -> None:
        self.run, self.config, self.reviews, self.versions = run, config, reviews, versions
        self.seconds: deque[float] = deque(maxlen=2000)
        self.on_change: list[Callable[[], None]] = []
        self.fault: str | None = None
        self._stop = threading.Event()
        self._asked = 0.0  # when somebody last asked for a prediction
        self._explaining, self._turns = threading.Lock(), threading.BoundedSemaphore(_IN_TURN)
        self._explained: OrderedDict[tuple[int, str, int | None], Explanation] = OrderedDict()
        row = reviews.in_service()
        if row is None:
            raise RunError(f"{run} has no version to serve yet; start `everlearn serve {run}`, which makes the first")
        self.current = self._load(row["number"], row["temperature"])
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture."""
        inputs = self.current.learner.memory.inputs
        assert inputs is not None
        return tuple(inputs.shape[1:])  # type: ignore[return-value]

    def predict(self, inputs: Tensor) -> tuple[Served, Tensor]:
        """The version that predicted, and its calibrated probabilities ``[n, classes]``."""
        begun = self._asked = time.perf_counter()
        served = self.current
        found = served.probabilities(inputs)
        self._asked = time.perf_counter()
        self.seconds.append(self._asked - begun)
        return served, found

    def wait_for_calm(self) -> None:
        """Let predictions go first: what works behind the scenes asks before each small piece of its work.

        A lower priority of its thread would not do: it would hold the interpreter while it waits for a processor.
        """
        until = time.perf_counter() + _PATIENCE
        while (now := time.perf_counter()) < until and now - self._asked < _CALM and not self._stop.wait(_CALM / 2):
            pass

    def explain(
        self, name: str, picture: Tensor, label: str | None = None, method: str = "sise"
    ) -> tuple[Served, Explanation]:
        """Explain the prediction for one picture, or another class; a ``name`` keeps it for the next look.

        One is worked out at a time; raises `Refused` where too many wait for that already.
        """
        served = self.current
        code = None
        if label is not None:
            known = {served.names[c]: c for c in served.learner.classes.codes}
            if label not in known:
                raise SettingError(f"the model knows no class {label!r}; it knows {', '.join(known)}")
            code = known[label]
        key = (served.number, f"{method} {name}", code)
        found = self._explained.get(key)
        if found is not None:
            with suppress(KeyError):  # it made room meanwhile
                self._explained.move_to_end(key)
        else:
            with self._turn(), self._explaining:
                found = self._explained.get(key) or self._explain(served, picture, code, method)
                if name:
                    self._explained[key] = found
                    while len(self._explained) > _EXPLANATIONS:
                        self._explained.popitem(last=False)
        return served, found

    def novelty(self, served: Served, inputs: Tensor, *, patient: bool = False) -> Tensor:
        """``[n]`` distance to the nearest remembered sample, in units of what is usual between remembered samples.

        Remembered samples' features are computed once for each version, on request ``patient`` with predictions.
        """
        if served.novelty is None:
            memory, parts = served.learner.memory, []
            for slots in torch.arange(memory.size).split(_PIECE):
                if patient:
                    self.wait_for_calm()
                parts.append(served.learner.features(memory.take(slots).inputs))
            features = torch.cat(parts)
            apart = torch.cdist(features, features)
            apart.fill_diagonal_(torch.inf)
            served.novelty = features, float(apart.amin(1).median()) or 1.0
        features, usual = served.novelty
        return torch.cdist(served.learner.features(inputs), features).amin(1) / usual

    def forget_explanations(self) -> None:
        """Drop what was kept of explanations: they show remembered pictures."""
        with self._explaining:
            self._explained.clear()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise Refused(503, f"{_IN_TURN} explanations are asked for already; ask again in {_TURN} s", _TURN)
        try:
            yield
        finally:
            self._turns.release()

    def _explain(self, served: Served, picture: Tensor, code: int | None, method: str) -> Explanation:
        if served.explains is None:
            served.explains = self._learner(served.number)

        def named(code: int) -> str:
            return served.names.get(code, str(code))

        found = explain(served.explains, picture[None], code, explainer=method, class_names=named)[0]
        found = replace(found, probability=float(served.probabilities(picture[None])[0, found.target]))
        return replace(found, words=words(found, named))

    def _watch(self) -> None:
        while not self._stop.wait(_POLL):
            try:
                row = self.reviews.in_service()
                if row is None or row["number"] == self.current.number:
                    continue
                self.current = self._load(row["number"], row["temperature"])
                self.fault = None
                self.versions.unfetch(but=row["number"])
                self.forget_explanations()
                for tell in self.on_change:
                    tell()
            except Exception as error:  # whatever it is, the version before goes on predicting, and the page says so
                self.fault = " ".join(str(error).split())

    def _load(self, number: int, temperature: float) -> Served:
        names = {row["code"]: row["name"] for row in self.reviews.rows("SELECT code, name FROM classes")}
        return Served(number, self._learner(number), temperature, names)

    def _learner(self, number: int) -> Learner:
        _, tensors = self.versions.load(number)
        shape = tuple(tensors["memory.inputs"].shape[1:])
        learner = build_learner(self.config, shape, empty=True)  # type: ignore[arg-type]
        learner.load_state_dict(tensors)
        learner.model.eval()  # for good: threads that predict at the same time never see it otherwise
        return learner
