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
from torch import Tensor

import pretrain_peers
from everlearn.models.language import Language
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.initialise import initialise
from everlearn.scaling.pretrain import finished, generate, prepare, pretrain
from everlearn.scaling.settings import Settings
from everlearn.scaling.train import Moment
from pretrain_bare import BATCH, BETAS, CLIP, DECAY, LENGTH, LR, MODEL, VALID, WARMUP, BareLoop

TURN, SEED = 5, 0
PROMPTS = {"tinyshakespeare": "ROMEO:\n", "wikitext2_valid": " The "}


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
        turns = Turns(BareLoop(vocab, renamed(start.state_dict()), batch, args.peer_steps))
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
    bare = BareLoop(config.vocab, renamed(start.state_dict()), batch, args.steps)
    turns = Turns(bare, folder / "bare.pt", args.every)
    loss = pretrain(settings, folder / "run", turns)
    while bare.done < args.steps:
        bare.step()
    model, tokenizer, _ = finished(folder / "run")
    theirs = bare.model.state_dict()
    valid_batches = (held.batch(i, BATCH, slice(0, BATCH)) for i in range(VALID))
    count = sum(p.numel() for p in start.parameters())
    found: dict[str, Any] = {
        "text": args.text, "parameters": count, "tokens": len(train), "steps": args.steps,
        "tokens_a_step": BATCH * LENGTH, "valid_loss": loss, "bare_valid_loss": bare.evaluate(valid_batches),
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
