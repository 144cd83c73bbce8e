"""Two corpora one after the other: how much of the first is forgotten, with 0, 1 and 5 % of it replayed.

    python benchmarks/continual_pretraining.py OUT --data FOLDER [--steps 200] [--memory 512] [--seed 0]

A small byte-level model learns tinyshakespeare, then WikiText-2 from those weights; what is replayed comes from a
uniform reservoir of windows. The curve is the first corpus's validation loss. Writes OUT/continual_pretraining.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from everlearn.scaling.pretrain import pretrain
from everlearn.scaling.settings import Settings
from everlearn.scaling.tokenizer import read_text

FIRST, SECOND = "tinyshakespeare", "wikitext2_valid"
SHARES = (0.0, 0.01, 0.05)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a directory; runs that are there already go on")
    parser.add_argument("--data", type=Path, required=True, help="folder with the two text files, .txt.gz")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--memory", type=int, default=512, help="windows of 128 bytes in the reservoir")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in (FIRST, SECOND):
        if not (args.data / f"{name}.txt.gz").is_file():
            parser.error(f"there is no {name}.txt.gz in {args.data}; give --data")
    args.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    old, old_valid = halves(args.data / f"{FIRST}.txt.gz", args.out)
    new, new_valid = halves(args.data / f"{SECOND}.txt.gz", args.out)
    before = pretrain(settings_of({"train": [old], "valid": [old_valid]}, args.steps, args.seed), args.out / "first")
    print(f"{FIRST} first: loss {before:.3f} (nats a byte) after {args.steps} steps of 1024 bytes")
    print(f"{'replay':>7}{'second':>9}{'first':>9}{'forgotten':>11}   the first's loss on the way")
    rows = []
    for share in SHARES:
        data = {"train": [new], "valid": [new_valid], "watch": [old_valid], "replay": [old], "replay_share": share,
                "memory": args.memory}  # fmt: skip
        run = args.out / f"second-{share:g}"
        pretrain(settings_of(data, args.steps, args.seed, str(args.out / "first")), run)
        points = curve(run)
        _, learned, kept = points[-1]
        rows.append({"share": share, "learned": learned, "kept": kept, "forgotten": kept - before, "curve": points})
        way = " ".join(f"{loss:.2f}" for _, _, loss in points)
        print(f"{share:7.0%}{learned:9.3f}{kept:9.3f}{kept - before:11.3f}   {way}")
    found = {"before": before, "rows": rows, "steps": args.steps, "memory": args.memory,
             "seed": args.seed, "torch": torch.__version__,
             "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}  # fmt: skip
    print(f"{time.perf_counter() - begun:.0f} s; seed {args.seed}, torch {torch.__version__}, {found['machine']}")
    (args.out / "continual_pretraining.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
