"""A 10 M model on real text: ``everlearn pretrain`` beside a bare PyTorch loop, the HF Trainer and OLMo-core.

    python benchmarks/pretrain.py OUT --data FOLDER [--steps 120] [--peer-steps 40] [--text tinyshakespeare]

All have one shape, one tokenizer, one order of batches and, but for the peers, one set of initial weights. Each takes
turns with the bare loop within one process, five steps each, so that a machine whose speed drifts slows both alike.
Everlearn and the bare loop are to compute the same bits: how far their losses part, and whether all weights are equal
in the end, is told. Both save themselves every `--every` steps, each peer is done once, and the same command goes on
after an interruption. Writes OUT/pretrain-TEXT.json. Peers that are not installed are left out: pip install
transformers accelerate; OLMo-core pins an older torch and rich: pip install --no-deps ai2-olmo-core, what it imports.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pretrain_peers
from everlearn.models.language import Language
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.initialise import initialise
from everlearn.scaling.pretrain import finished, generate, prepare, pretrain
from everlearn.scaling.settings import Settings
from everlearn.scaling.train import Moment

TURN, SEED = 5, 0
MODEL = {"layers": 7, "hidden": 320, "heads": 5, "ffn": 896, "seq_len": 256, "tied": True}
LR, BETAS, DECAY, CLIP, WARMUP = 1e-3, (0.9, 0.95), 0.1, 1.0, 100
BATCH, LENGTH, VALID = 4, 128, 32
PROMPTS = {"tinyshakespeare": "ROMEO:\n", "wikitext2_valid": " The "}


# -- the bare loop: nothing of Everlearn in the model or the step ------------------------------------------------------


class BareBlock(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(d, 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.norm2 = nn.RMSNorm(d, 1e-5)
        self.gate, self.up = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False)
        self.down = nn.Linear(ffn, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, d = x.shape
        h = self.norm1(x)
        q, k, v = (m(h).view(b, s, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, s, d))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Bare(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        d, heads = MODEL["hidden"], MODEL["heads"]
        self.embed = nn.Embedding(vocab, d)
        self.blocks = nn.ModuleList(BareBlock(d, heads, MODEL["ffn"]) for _ in range(MODEL["layers"]))
        self.norm = nn.RMSNorm(d, 1e-5)
        angle = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(d // heads // 2) / (d // heads // 2))
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x) @ self.embed.weight.T


class BareLoop:
    """Model, AdamW, clipping, warm-up, a last fifth of decay; ``step`` takes one step."""

    def __init__(
        self, vocab: int, weights: dict[str, Tensor], batch: Callable[[int], tuple[Tensor, Tensor]], steps: int
    ) -> None:
        self.model, self.batch, self.done, self.steps, self.loss = Bare(vocab), batch, 0, steps, math.nan
        self.model.load_state_dict(renamed(weights))
        groups = [{"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": DECAY},
                  {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
        self.optimiser = torch.optim.AdamW(groups, LR, BETAS, 1e-8, fused=True)

    def step(self) -> float:
        tokens, labels = self.batch(self.done)
        decayed = max(0.0, self.done - (self.steps - self.steps // 5)) / max(1, self.steps // 5)
        for group in self.optimiser.param_groups:
            group["lr"] = LR * min(1.0, (self.done + 1) / WARMUP, 1 - decayed**0.5)
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        self.loss = loss.item()
        return self.loss

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "done": self.done}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]

    @torch.no_grad()
    def evaluate(self, valid: Sampler) -> float:
        losses = []
        for i in range(VALID):
            tokens, labels = valid.batch(i, BATCH, slice(0, BATCH))
            losses.append(F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten()).item())
        return sum(losses) / VALID


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of everlearn's weights by the bare model's names."""
    short = {"attention_norm": "norm1", "feed_norm": "norm2", "attention.": "", "feed.": ""}
    found = {}
    for name, value in weights.items():
        for long, word in short.items():
            name = name.replace(long, word)
        found[name] = value.clone()
    found.pop("head.weight", None)
    return found


# -- taking turns ------------------------------------------------------------------------------------------------------


class Turns:
    """Counts the time between calls as one side's, and lets the bare loop take as many steps in between.

    Wall time and the process's own: other work on the machine stretches the first, and hardly the second. ``file``
    keeps the bare loop and the turns every ``every`` steps.
    """

    def __init__(self, bare: BareLoop, file: Path | None = None, every: int = 0) -> None:
        self.bare, self.file, self.every, self.count = bare, file, every, 0
        self.turns: list[list[tuple[float, ...]]] = []
        self.mine = (0.0, 0.0)
        self.apart = 0.0
        if file is not None and file.is_file():
            state = torch.load(file, weights_only=True)
            bare.load(state["bare"])
            self.turns, self.apart = state["turns"], state["apart"]
        self.begun = clocks()

    def __call__(self, moment: Moment | None = None) -> None:
        """A step of one side has ended; ``moment`` tells everlearn's loss."""
        self.count += 1
        self.mine = tuple(t + new - old for t, new, old in zip(self.mine, clocks(), self.begun))
        if self.count % TURN == 0:
            if self.bare.done + TURN <= self.bare.steps:
                begun = clocks()
                for _ in range(TURN):
                    self.bare.step()
                theirs = tuple(new - old for new, old in zip(clocks(), begun))
                if moment is not None and moment.step == self.bare.done:
                    self.apart = max(self.apart, abs(moment.loss - self.bare.loss))
                if self.count > TURN:  # the first turn warms up
                    self.turns.append([self.mine, theirs])
            if self.file is not None and self.bare.done % self.every == 0:
                beside = self.file.with_suffix(".new")
                torch.save({"bare": self.bare.state(), "turns": self.turns, "apart": self.apart}, beside)
                beside.rename(self.file)
            self.mine = (0.0, 0.0)
        self.begun = clocks()

    def result(self) -> dict[str, float]:
        """Tokens/s of one side and of the bare loop; medians over turns of their ratio."""
        tokens = TURN * BATCH * LENGTH
        return {
            "tokens_per_second": tokens / statistics.median(a[0] for a, _ in self.turns),
            "bare_tokens_per_second": tokens / statistics.median(b[0] for _, b in self.turns),
            "ratio": statistics.median(b[0] / a[0] for a, b in self.turns),
            "ratio_cpu": statistics.median(b[1] / a[1] for a, b in self.turns),
            "turns": len(self.turns),
        }


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def settings_of(text: Path, folder: Path, steps: int, every: int) -> Settings:
    """The configuration, with the text cut in two: nine tenths to train, the rest to validate."""
    from everlearn.scaling.tokenizer import read_text

    whole = "".join(read_text(text))
    cut = whole.rindex("\n", 0, int(0.9 * len(whole))) + 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(whole[:cut], encoding="utf-8")
    (folder / "valid.txt").write_text(whole[cut:], encoding="utf-8")
    return Settings.of({
        "model": MODEL,
        "data": {"train": [str(folder / "train.txt")], "valid": [str(folder / "valid.txt")], "tokenizer": "bpe:4096"},
        "train": {"steps": steps, "global_batch": BATCH, "seq_len": LENGTH, "checkpoint_every": every,
                  "evaluate_every": 2 * every, "valid_batches": VALID},
        "optimiser": {"lr": LR, "betas": list(BETAS), "weight_decay": DECAY, "clip": CLIP},
        "schedule": {"warmup": WARMUP, "decay": steps // 5}, "layout": {"micro_batch": BATCH}, "seed": SEED,
    })  # fmt: skip


def line(name: str, loss: float | None, speed: dict[str, float]) -> str:
    shown = f"{loss:11.4f}" if loss is not None else f"{'':11}"
    ratios = f"{speed['ratio']:.3f} by the wall, {speed['ratio_cpu']:.3f} by CPU time, median of {speed['turns']} turns"
    return f"{name:22}{shown}{speed['tokens_per_second']:10.0f}   / bare {ratios}"


def beside_peers(args: argparse.Namespace, start: Language, batch: Callable[[int], tuple[Tensor, Tensor]]) -> Any:
    """Each peer in turns with the bare loop; what was measured before is kept in a file."""
    file, vocab = args.out / "peers.json", start.config.vocab
    found = json.loads(file.read_text()) if file.is_file() else {}
    model = MODEL | {"vocab": vocab, "batch": BATCH, "length": LENGTH, "lr": LR, "betas": BETAS,
                     "decay": DECAY, "clip": CLIP, "warmup": WARMUP, "seed": SEED}  # fmt: skip
    for name, peer in pretrain_peers.PEERS.items():
        if name in found:
            continue
        turns = Turns(BareLoop(vocab, start.state_dict(), batch, args.peer_steps))
        try:
            told = peer(model, batch, args.peer_steps, turns, args.out / name)
        except ImportError as error:
            print(f"{name} left out: {error}")
            continue
        found[name] = turns.result() | told
        file.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with the text files")
    parser.add_argument("--text", default="tinyshakespeare", choices=PROMPTS, help="TEXT.txt.gz of the folder")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--peer-steps", type=int, default=40, help="0: without the peers")
    args = parser.parse_args()
    text = args.data / f"{args.text}.txt.gz"
    if not text.is_file():
        parser.error(f"there is no {text.name} in {args.data}; give --data")
    folder = args.out / args.text
    settings = settings_of(text, folder, args.steps, args.every)
    prepare(settings, folder / "run")
    files = (settings.data.train[0], settings.data.valid[0])
    train, valid = (Tokens(token_file(Path(name), folder / "run")) for name in files)
    config = settings.language(train.vocab)
    start = Language(config)
    initialise(start, SEED)
    sampler, held = Sampler([train], LENGTH, SEED), Sampler([valid], LENGTH, 0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return sampler.batch(step, BATCH, slice(0, BATCH))

    peers = beside_peers(args, start, batch) if args.peer_steps else {}
    bare = BareLoop(config.vocab, start.state_dict(), batch, args.steps)
    turns = Turns(bare, folder / "bare.pt", args.every)
    loss = pretrain(settings, folder / "run", turns)
    while bare.done < args.steps:
        bare.step()
    model, tokenizer, _ = finished(folder / "run")
    theirs = bare.model.state_dict()
    count = sum(p.numel() for p in start.parameters())
    found: dict[str, Any] = {
        "text": args.text, "parameters": count, "tokens": len(train), "steps": args.steps,
        "tokens_a_step": BATCH * LENGTH, "valid_loss": loss, "bare_valid_loss": bare.evaluate(held),
        "largest_difference_of_losses": turns.apart,
        "same_weights": all(torch.equal(v, theirs[k]) for k, v in renamed(model.state_dict()).items()),
        **turns.result(), **peers, "seed": SEED, "uniform_loss": math.log(config.vocab), "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, float32",
    }  # fmt: skip
    size = f"{count / 1e6:.1f} M parameters, {len(train):,} tokens"
    print(f"{args.text}: {size}, {args.steps} steps of {BATCH * LENGTH} tokens")
    print(f"{'':22}{'valid loss':>11}{'tokens/s':>10}")
    print(line("everlearn pretrain", loss, found))
    print(f"{'bare loop':22}{found['bare_valid_loss']:11.4f}{found['bare_tokens_per_second']:10.0f}")
    for name, peer in peers.items():
        print(line(f"{name} {peer['version']}", None, peer))
    print(f"losses at most {turns.apart:.1e} apart on the way; weights equal to the bit: {found['same_weights']}")
    found["generated"] = tokenizer.decode(generate(model, tokenizer.encode(PROMPTS[args.text]), 120))
    print(f"generated: {found['generated']}")
    print(f"seed {SEED}, torch {torch.__version__}, {found['machine']}")
    (args.out / f"pretrain-{args.text}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
