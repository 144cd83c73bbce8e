"""Two corpora one after the other: how much of the first is forgotten, with 0, 1 and 5 % of it replayed.

    python benchmarks/continual_pretraining.py OUT --data FOLDER [--steps 400] [--memory 512] [--seeds 2]

A small byte-level model learns tinyshakespeare, then WikiText-2 from those weights; what is replayed comes from a
uniform reservoir of windows, all of it alike, or only the quarter of the highest value
(`everlearn.scaling.replay_values`). Valuing costs forwards and a few steps, so a run by value takes as many steps less
as that cost: equal compute; a uniform one of as few steps tells how much that alone makes. The curve is the first
corpus's validation loss. Writes OUT/continual_pretraining.jsonl; runs that are there go on.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from everlearn.scaling.pretrain import pretrain
from everlearn.scaling.replay_values import cost
from everlearn.scaling.settings import Settings
from everlearn.scaling.tokenizer import read_text

FIRST, SECOND = "tinyshakespeare", "wikitext2_valid"
SHARES = (0.0, 0.01, 0.05)
KEPT = 0.25
MODEL = {"layers": 3, "hidden": 128, "heads": 4, "ffn": 352, "seq_len": 128, "tied": True}


def halves(text: Path, folder: Path) -> tuple[str, str]:
    """Nine tenths of a text to train and the rest to validate, as files of their own."""
    whole = "".join(read_text(text))
    cut = whole.rindex("\n", 0, int(0.9 * len(whole))) + 1
    name = text.name.split(".")[0]
    for part, piece in (("train", whole[:cut]), ("valid", whole[cut:])):
        (folder / f"{name}-{part}.txt").write_text(piece, encoding="utf-8")
    return str(folder / f"{name}-train.txt"), str(folder / f"{name}-valid.txt")


def settings_of(data: dict[str, object], steps: int, seed: int, start: str = "") -> Settings:
    train = {"steps": steps, "global_batch": 8, "checkpoint_every": steps, "evaluate_every": max(1, steps // 10)}
    return Settings.of({
        "model": MODEL, "data": data, "train": train | {"valid_batches": 8}, "start": start, "seed": seed,
        "optimiser": {"lr": 2e-3}, "schedule": {"warmup": 20, "decay": steps // 4}, "layout": {"micro_batch": 8},
    })  # fmt: skip


def curve(run: Path) -> list[tuple[int, float, float]]:
    """Step, validation loss of the corpus that is learned, and of the one that was."""
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [(x["step"], x["valid_loss"], next(iter(x["watched"].values()))) for x in lines if x.get("watched")]


def one(args: argparse.Namespace, seed: int, show: Callable[[str], None]) -> Iterator[dict[str, object]]:
    """The first corpus, then the second with each share of the first, uniformly and by value."""
    folder = args.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    old, old_valid = halves(args.data / f"{FIRST}.txt.gz", folder)
    new, new_valid = halves(args.data / f"{SECOND}.txt.gz", folder)
    before = pretrain(settings_of({"train": [old], "valid": [old_valid]}, args.steps, seed), folder / "first")
    show(f"seed {seed}: {FIRST} first, loss {before:.3f} (nats a byte) after {args.steps} steps of 1024 bytes")
    for share in SHARES:
        for by in ("uniform", "value", "uniform-short") if share else ("uniform",):
            data = {"train": [new], "valid": [new_valid], "watch": [old_valid], "replay": [old], "replay_share": share,
                    "memory": args.memory, "replay_by": by.split("-")[0], "kept": KEPT}  # fmt: skip
            spent = math.ceil(cost(args.memory, 8) / 8) if by != "uniform" else 0
            run = folder / f"second-{share:g}-{by}"
            settings = settings_of(data, args.steps - spent, seed, str(folder / "first"))
            pretrain(settings, run)
            points = curve(run)
            _, learned, kept = points[-1]
            yield {"seed": seed, "share": share, "by": by, "steps": args.steps - spent, "memory": args.memory,
                   "before": before, "learned": learned, "kept": kept, "forgotten": kept - before, "curve": points,
                   "torch": torch.__version__,
                   "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a directory; runs that are there already go on")
    parser.add_argument("--data", type=Path, required=True, help="folder with the two text files, .txt.gz")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--memory", type=int, default=512, help="windows of 128 bytes in the reservoir")
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0 on")
    args = parser.parse_args()
    for name in (FIRST, SECOND):
        if not (args.data / f"{name}.txt.gz").is_file():
            parser.error(f"there is no {name}.txt.gz in {args.data}; give --data")
    args.out.mkdir(parents=True, exist_ok=True)
    begun, file = time.process_time(), args.out / "continual_pretraining.jsonl"
    rows = []
    head = f"{'seed':>4}{'replay':>8}{'by':>15}{'steps':>7}{'second':>8}{'first':>8}{'forgotten':>11}"
    print(f"{head}   the first corpus's loss on the way")
    for seed in range(args.seeds):
        for row in one(args, seed, lambda text: print(text, flush=True)):
            rows.append(row)
            way = " ".join(f"{loss:.2f}" for _, _, loss in row["curve"])
            figures = f"{row['learned']:8.3f}{row['kept']:8.3f}{row['forgotten']:11.3f}"
            print(f"{seed:4d}{row['share']:8.0%}{row['by']:>15}{row['steps']:7d}{figures}   {way}", flush=True)
            file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    print(f"{time.process_time() - begun:.0f} s of one processor; torch {torch.__version__}, {platform.machine()}")


if __name__ == "__main__":
    main()
