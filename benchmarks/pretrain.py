"""A 10 M model on real text: ``everlearn pretrain`` beside a bare PyTorch loop and the Hugging Face Trainer.

    python benchmarks/pretrain.py OUT --data FOLDER [--steps 120] [--trainer-steps 40] [--text tinyshakespeare]

All have one shape, one tokenizer, one order of batches and, but for the Trainer, one set of initial weights. They take
turns within one process, five steps each, so that a machine whose speed drifts slows all alike. Writes
OUT/pretrain-TEXT.json.
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

from everlearn.models.language import Language
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.initialise import initialise
from everlearn.scaling.pretrain import finished, generate, prepare, pretrain
from everlearn.scaling.settings import Settings

TURN, SEED = 5, 0
MODEL = {"layers": 7, "hidden": 320, "heads": 5, "ffn": 896, "seq_len": 256, "tied": True}
LR, BETAS, DECAY, CLIP, WARMUP = 1e-3, (0.9, 0.95), 0.1, 1.0, 20
BATCH, LENGTH, VALID = 4, 128, 24
PROMPTS = {"tinyshakespeare": "ROMEO:\n", "wikitext2_valid": " The "}


# -- the bare loop: nothing of Everlearn in the model or the step ------------------------------------------------------


class BareBlock(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(d, 1e-5), nn.RMSNorm(d, 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
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
    """Model, AdamW, clipping, warm-up; ``step`` takes one step."""

    def __init__(self, vocab: int, weights: dict[str, Tensor], batch: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.model, self.batch, self.done = Bare(vocab), batch, 0
        short = {"attention_norm": "norm1", "feed_norm": "norm2", "attention.": "", "feed.": ""}
        renamed = {}
        for name, value in weights.items():
            for long, word in short.items():
                name = name.replace(long, word)
            renamed[name] = value.clone()
        renamed.pop("head.weight", None)
        self.model.load_state_dict(renamed)
        groups = [{"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": DECAY},
                  {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
        self.optimiser = torch.optim.AdamW(groups, LR, BETAS, 1e-8, fused=True)

    def step(self) -> float:
        tokens, labels = self.batch(self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = LR * min(1.0, (self.done + 1) / WARMUP)
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        return loss.item()

    @torch.no_grad()
    def evaluate(self, valid: Sampler) -> float:
        losses = []
        for i in range(VALID):
            tokens, labels = valid.batch(i, BATCH, slice(0, BATCH))
            losses.append(F.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten()).item())
        return sum(losses) / VALID


# -- taking turns ------------------------------------------------------------------------------------------------------


class Turns:
    """Counts the time between calls as one side's, and lets the other side take as many steps in between.

    Wall time and the process's own: other work on the machine stretches the first, and hardly the second.
    """

    def __init__(self, other: Callable[[], Any]) -> None:
        self.other, self.count = other, 0
        self.mine, self.theirs = [(0.0, 0.0)], [(0.0, 0.0)]
        self.begun = clocks()

    def __call__(self, *_: Any) -> None:
        """A step of one side has ended."""
        self.count += 1
        self.mine[-1] = tuple(t + new - old for t, new, old in zip(self.mine[-1], clocks(), self.begun))
        if self.count % TURN == 0:
            self.begun = clocks()
            for _ in range(TURN):
                self.other()
            self.theirs[-1] = tuple(new - old for new, old in zip(clocks(), self.begun))
            self.mine.append((0.0, 0.0))
            self.theirs.append((0.0, 0.0))
        self.begun = clocks()

    def result(self) -> dict[str, float]:
        """Tokens/s of one side and of the other; medians over turns of their ratio. The first turn warms up."""
        pairs = list(zip(self.mine[1:-1], self.theirs[1:-1]))
        tokens = TURN * BATCH * LENGTH
        return {
            "tokens_per_second": tokens / statistics.median(a[0] for a, _ in pairs),
            "bare_tokens_per_second": tokens / statistics.median(b[0] for _, b in pairs),
            "ratio": statistics.median(b[0] / a[0] for a, b in pairs),
            "ratio_cpu": statistics.median(b[1] / a[1] for a, b in pairs),
        }


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def settings_of(text: Path, folder: Path, steps: int) -> Settings:
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
        "train": {"steps": steps, "global_batch": BATCH, "seq_len": LENGTH, "checkpoint_every": steps,
                  "valid_batches": VALID},
        "optimiser": {"lr": LR, "betas": list(BETAS), "weight_decay": DECAY, "clip": CLIP},
        "schedule": {"warmup": WARMUP}, "layout": {"micro_batch": BATCH}, "seed": SEED,
    })  # fmt: skip


def trainer(vocab: int, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, turns: Turns, out: Path) -> float:
    """The Hugging Face Trainer on a Llama of the same shape and the same batches; returns its last loss."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Windows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return steps * BATCH

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            tokens, labels = batch(i // BATCH)
            return {"input_ids": tokens[i % BATCH], "shift_labels": labels[i % BATCH], "labels": labels[i % BATCH]}

    class Ended(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns()

    config = LlamaConfig(vocab_size=vocab, hidden_size=MODEL["hidden"], intermediate_size=MODEL["ffn"],
                         num_hidden_layers=MODEL["layers"], num_attention_heads=MODEL["heads"], rms_norm_eps=1e-5,
                         max_position_embeddings=MODEL["seq_len"], tie_word_embeddings=True,
                         use_cache=False)  # fmt: skip
    asked = TrainingArguments(output_dir=str(out), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LR,
                              adam_beta1=BETAS[0], adam_beta2=BETAS[1], weight_decay=DECAY, max_grad_norm=CLIP,
                              lr_scheduler_type="constant_with_warmup", warmup_steps=WARMUP, save_strategy="no",
                              report_to=[], disable_tqdm=True, logging_steps=steps, use_cpu=True, seed=SEED,
                              dataloader_num_workers=0, remove_unused_columns=False)  # fmt: skip
    run = Trainer(LlamaForCausalLM(config), asked, train_dataset=Windows(), callbacks=[Ended()])
    run._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(run.train_dataset)  # type: ignore[method-assign]
    turns.begun = clocks()
    return float(run.train().training_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with the text files")
    parser.add_argument("--text", default="tinyshakespeare", choices=PROMPTS, help="TEXT.txt.gz of the folder")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--trainer-steps", type=int, default=40, help="0: without the Trainer")
    args = parser.parse_args()
    text = args.data / f"{args.text}.txt.gz"
    if not text.is_file():
        parser.error(f"there is no {text.name} in {args.data}; give --data")
    folder = args.out / args.text
    settings = settings_of(text, folder, args.steps)
    prepare(settings, folder / "run")
    files = (settings.data.train[0], settings.data.valid[0])
    train, valid = (Tokens(token_file(Path(name), folder / "run")) for name in files)
    config = settings.language(train.vocab)
    start = Language(config)
    initialise(start, SEED)
    sampler, held = Sampler([train], LENGTH, SEED), Sampler([valid], LENGTH, 0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return sampler.batch(step, BATCH, slice(0, BATCH))

    bare = BareLoop(config.vocab, start.state_dict(), batch)
    turns = Turns(bare.step)
    loss = pretrain(settings, folder / "run", turns)
    bare_loss = bare.evaluate(held)
    speed = turns.result()
    count = sum(p.numel() for p in start.parameters())
    found: dict[str, Any] = {
        "text": args.text, "parameters": count, "tokens": len(train), "steps": args.steps,
        "tokens_a_step": BATCH * LENGTH, "valid_loss": loss, "bare_valid_loss": bare_loss,
        **speed, "turns": len(turns.mine) - 2, "seed": SEED,
        "uniform_loss": math.log(config.vocab), "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, float32",
    }  # fmt: skip
    size = f"{count / 1e6:.1f} M parameters, {len(train):,} tokens"
    print(f"{args.text}: {size}, {args.steps} steps of {BATCH * LENGTH} tokens")
    print(f"{'':22}{'valid loss':>11}{'tokens/s':>10}")
    print(f"{'everlearn pretrain':22}{loss:11.4f}{speed['tokens_per_second']:10.0f}")
    print(
        f"{'bare loop':22}{bare_loss:11.4f}{speed['bare_tokens_per_second']:10.0f}   everlearn / bare "
        f"{speed['ratio']:.3f} by the wall, {speed['ratio_cpu']:.3f} by CPU time, median of {found['turns']} turns"
    )
    if args.trainer_steps:
        try:
            import accelerate
            import transformers
        except ImportError as error:
            print(f"HF Trainer left out: {error}; pip install transformers accelerate")
        else:
            again = BareLoop(config.vocab, start.state_dict(), batch)
            turns = Turns(again.step)
            peer_loss = trainer(config.vocab, batch, args.trainer_steps, turns, args.out / "trainer")
            peer = turns.result()
            found |= {"trainer": peer, "trainer_train_loss": peer_loss,
                      "transformers": transformers.__version__, "accelerate": accelerate.__version__}  # fmt: skip
            print(
                f"{'HF Trainer':22}{'':11}{peer['tokens_per_second']:10.0f}   HF Trainer / bare {peer['ratio']:.3f} "
                f"by the wall, {peer['ratio_cpu']:.3f} by CPU time; transformers {transformers.__version__}"
            )
    model, tokenizer, _ = finished(folder / "run")
    found["generated"] = tokenizer.decode(generate(model, tokenizer.encode(PROMPTS[args.text]), 60))
    print(f"generated: {found['generated']!r}")
    print(f"seed {SEED}, torch {torch.__version__}, {found['machine']}")
    (args.out / f"pretrain-{args.text}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
