"""The training loop: steps, checkpoints, validation, and what to do when the loss runs away."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from everlearn.errors import RunError
from everlearn.scaling import gradients, optimisers
from everlearn.scaling.checkpoint import Checkpoints, State, held_tensors, take_tensors
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.engine import Engine
from everlearn.scaling.mesh import build_mesh, check
from everlearn.scaling.replay import Replaying
from everlearn.scaling.replay_values import chosen
from everlearn.scaling.replicas import Replicas, group
from everlearn.scaling.schedule import rate
from everlearn.scaling.settings import Settings
from everlearn.scaling.start import begin_with

ROLLBACKS = 3


@dataclass(frozen=True)
class Moment:
    """How a run stands after a step: what progress shows."""

    step: int
    steps: int
    loss: float
    norm: float
    lr: float
    tokens_per_second: float
    mfu: float | None
    memory_gib: float
    valid_loss: float | None = None
    watched: dict[str, float] = field(default_factory=dict)
    note: str = ""


class Training:
    """A pretraining run on this process: an engine, its optimisers, its data, its checkpoints.

    Parameters
    ----------
    settings : Settings
    folder : Path
        Of the run; shared by all processes.
        Its token files are there already.
    device : str
    """

    def __init__(self, settings: Settings, folder: Path, device: str = "cpu") -> None:
        self.settings, self.folder = settings, folder
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        data = settings.data
        train, valid, replay, watch = (
            [Tokens(token_file(Path(name), folder)) for name in names]
            for names in (data.train, data.valid, data.replay, data.watch)
        )
        config = settings.language(max(tokens.vocab for tokens in train))
        for tokens in (*train, *valid, *replay, *watch):
            if tokens.vocab > config.vocab:
                found = f"{tokens.file} is of a vocabulary of {tokens.vocab}"
                raise RunError(f"{found}, the model of {config.vocab}; set the model's vocab to as many or more")
        self.seq_len = settings.train.seq_len or config.seq_len
        self.mesh = build_mesh(settings.layout, self.world, device)
        check(self.mesh.layout, config, self.seq_len, settings.train.global_batch)
        self.engine = Engine.build(config, self.mesh, settings.seed, device)
        self.optimisers = optimisers.build(self.engine.named_parameters(), settings.optimiser)
        self.sampler: Sampler | Replaying = Sampler(train, self.seq_len, settings.seed, data.weights)
        if replay and data.replay_share:
            best = chosen(folder) if data.replay_by == "value" else None
            self.sampler = Replaying(self.sampler, replay, data.replay_share, data.memory, best)
        self.valid = Sampler(valid, self.seq_len, 0) if valid else None
        samplers = [Sampler([tokens], self.seq_len, 0) for tokens in watch]
        self.watched = dict(zip(data.watch_names, samplers))
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.train.keep, self.world)
        state = self.checkpoints.load(self.engine, self.optimisers)
        if state is None and settings.start:
            begin_with(Path(settings.start), self.engine)
        self.state = state or State(model=asdict(config))
        self.first = self.world == 1 or dist.get_rank() == 0
        self._recent_rollbacks = 0
        self.replicas = self._join(device) if group() is not None else None
        self._flops = flops_per_token(self.engine, self.seq_len)

    def _join(self, device: str) -> Replicas:
        layout = self.mesh.layout
        if layout.pp > 1:
            raise RunError(f"replica groups with pp {layout.pp}: a schedule's micro-batches are fixed; set pp to 1")
        if layout.exact:
            raise RunError("replica groups with layout.exact: groups come and go, and so does the order of sums")

        def state() -> dict[str, Any]:
            return {"tensors": held_tensors(self.engine, self.optimisers), "state": asdict(self.state)}

        def heal(found: dict[str, Any]) -> None:
            take_tensors(self.engine, self.optimisers, found["tensors"])
            self.state = State(**found["state"])

        return Replicas(self.state.step, min(60.0, self.settings.train.timeout), state, heal, device)

    @property
    def leads(self) -> bool:
        """Whether this process writes the journal."""
        return self.first and (self.replicas is None or self.replicas.leads)

    def run(self, moment: Callable[[Moment], None] = lambda _: None, beat: Callable[[], None] = lambda: None) -> float:
        """Train to the end; returns the last validation loss, or the last loss where there is none.

        Parameters
        ----------
        moment : callable
            Called after each step, on the first process.
        beat : callable
            Called after each step, on every process.
        """
        train = self.settings.train
        begun = now = time.perf_counter()
        tokens, device_seconds = 0, 0.0
        ended = self.state.step >= train.steps
        last = self.evaluate(self.valid) if self.valid and ended else self.state.loss
        while self.state.step < train.steps:
            taken = self.step()
            if taken is None:
                beat()
                continue
            loss, norm = taken
            last = loss
            tokens += train.global_batch * self.seq_len
            before, now = now, time.perf_counter()
            device_seconds += (now - before) * self.world * (self.replicas.living if self.replicas else 1)
            done = self.state.step == train.steps
            writes = self.replicas is None or self.replicas.leads
            if writes and (self.state.step % train.checkpoint_every == 0 or done):
                self.checkpoints.save(self.engine, self.optimisers, self.state)
                self._recent_rollbacks = 0
            valid, watched = self._validate(done)
            last = valid if valid is not None and done else last
            if self.leads:
                mfu = tokens * self._flops / (train.peak_tflops * 1e12 * device_seconds) if train.peak_tflops else None
                told = Moment(self.state.step, train.steps, loss, norm, self._lr(self.state.step - 1),
                              tokens / (now - begun), mfu, memory_gib(), valid, watched)  # fmt: skip
                self._journal(told)
                moment(told)
            self.checkpoints.poll()
            beat()
        self.checkpoints.wait()
        if self.replicas is not None:
            self.replicas.leave()
        return last

    def step(self) -> tuple[float, float] | None:
        """One optimiser step and its loss and gradient norm; None if they run away, and training went back or on."""
        train, settings = self.settings.train, self.settings.optimiser
        if self.replicas is not None:
            self.replicas.begin()
        number = self._batch_number()
        tokens, labels = self.sampler.batch(number, train.global_batch, self._part())
        loss = self.engine.forward_backward(tokens, labels)
        if self.replicas is not None:
            share = len(tokens) * self.mesh.layout.dp / train.global_batch
            counts = [router.counts for router in self.engine.routers()]
            loss = self.replicas.sum(self.engine.parameters(), loss, share, counts)
        norm = self.engine.gradient_norm()
        values = float(loss), float(norm)
        fine = not self._runs_away(*values)
        if self.replicas is not None and not self.replicas.commit(fine):
            self.engine.clear()
            if not self.replicas.lost:
                self._pass_over(number, *values)
            return None
        if not fine:
            self.engine.clear()
            self._roll_back(*values)
            return None
        gradients.clip(self.engine.parameters(), norm, settings.clip)
        for optimiser in self.optimisers:
            for each in optimiser.param_groups:
                each["lr"] = self._lr(self.state.step)
            optimiser.step()
        self.engine.balance(train.balance_rate)
        self.engine.clear()
        self.state.step += 1
        self.state.tokens += train.global_batch * self.seq_len
        self.state.loss = values[0] if self.state.step == 1 else 0.98 * self.state.loss + 0.02 * values[0]
        return values

    def _part(self) -> slice:
        """The sequences of a step that are this process's."""
        layout, whole = self.mesh.layout, self.settings.train.global_batch
        first, last = 0, whole
        if self.replicas is not None:
            unit = layout.dp * layout.micro_batch
            first, last = (unit * n for n in self.replicas.share(whole // unit))
        size, replica = (last - first) // layout.dp, self.mesh.rank("batch")
        return slice(first + replica * size, first + (replica + 1) * size)

    def _pass_over(self, number: int, loss: float, norm: float) -> None:
        """Leave out a batch that all replica groups found bad; no weight has changed."""
        self._recent_rollbacks += 1
        found = f"loss {loss:.4g} and gradient norm {norm:.4g} in step {self.state.step}"
        if self._recent_rollbacks > ROLLBACKS:
            raise RunError(f"{found}, after {ROLLBACKS} other batches; lower the learning rate or look at the data")
        self.state.skipped = sorted({*self.state.skipped, number})
        if self.leads:
            self._journal({"note": f"{found}: goes on without batch {number}"})

    def _validate(self, done: bool) -> tuple[float | None, dict[str, float]]:
        """The validation loss and those of the watched files, where they are due after this step."""
        every = self.settings.train.evaluate_every
        if not done and not (every > 0 and self.state.step % every == 0):
            return None, {}
        watched = {name: self.evaluate(sampler) for name, sampler in self.watched.items()}
        return self.evaluate(self.valid) if self.valid else None, watched

    def evaluate(self, sampler: Sampler) -> float:
        """Mean loss over the validation batches of a sampler: the same ones every time."""
        train = self.settings.train
        replicas, replica = self.mesh.layout.dp, self.mesh.rank("batch")
        size = train.global_batch // replicas
        windows = sum(sampler.windows) // train.global_batch
        total = 0.0
        batches = max(1, min(train.valid_batches, windows))
        for i in range(batches):
            part = slice(replica * size, (replica + 1) * size)
            total += float(self.engine.evaluate(*sampler.batch(i, train.global_batch, part)))
        return total / batches

    def _lr(self, step: int) -> float:
        return self.settings.optimiser.lr * rate(step, self.settings.train.steps, self.settings.schedule)

    def _batch_number(self) -> int:
        """The step's batch: the step-th of those that are not skipped."""
        number = self.state.step
        for skipped in sorted(self.state.skipped):
            number += skipped <= number
        return number

    def _runs_away(self, loss: float, norm: float) -> bool:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return True
        spike = self.settings.train.spike
        return bool(spike and self.state.step > 20 and loss > self.state.loss + spike)

    def _roll_back(self, loss: float, norm: float) -> None:
        """Go back to the last checkpoint, and leave out the batch that did it."""
        self._recent_rollbacks += 1
        at, bad = self.state.step, self._batch_number()
        found = f"loss {loss:.4g} and gradient norm {norm:.4g} in step {at}"
        if self._recent_rollbacks > ROLLBACKS:
            raise RunError(
                f"{found}, after {ROLLBACKS} returns to a checkpoint; lower the learning rate or look at the data"
            )
        self.checkpoints.wait()
        skipped = sorted({*self.state.skipped, bad})
        state = self.checkpoints.load(self.engine, self.optimisers)
        if state is None:
            raise RunError(f"{found}, before the first checkpoint; lower the learning rate or look at the data")
        state.skipped = skipped
        self.state = state
        if self.first:
            self._journal({"note": f"{found}: back to step {state.step}, without batch {bad}"})

    def _journal(self, entry: Moment | dict[str, str]) -> None:
        known = asdict(entry) if isinstance(entry, Moment) else entry
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(known) + "\n")


def flops_per_token(engine: Engine, seq_len: int) -> float:
    """Model FLOPs of a token, forward and backward: 6 N + 12 L H Q T, N what multiplies it."""
    config = engine.config
    mlp = (3 if config.gated else 2) * config.hidden * config.ffn
    mixture = config.hidden * (config.experts + 3 * (config.top_k * config.expert_ffn + config.shared_ffn))
    mixtures = sum(config.has_experts(i) for i in range(config.layers))
    heads = 2 * config.hidden * config.head_dim * (config.heads + config.kv_heads)
    n = config.layers * heads + (config.layers - mixtures) * mlp + mixtures * mixture + config.vocab * config.hidden
    seen = sum(min(seq_len, config.window) if config.is_local(i) else seq_len for i in range(config.layers))
    return 6.0 * n + 12.0 * config.heads * config.head_dim * seen


def memory_gib() -> float:
    """The most memory that this process has had: the accelerator's, or its own."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
