"""Two processes with a batch of 10 each beside one process with a batch of 20: final average accuracy over seeds.

    python benchmarks/processes.py --data builtin:digits [--most N] [--methods er,aser] [--memory 200] [--seeds 5]

Every run is `everlearn learn` as a user starts it. Rows go to a file of JSON lines; what it holds already is not run
again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from everlearn.bench.rows import append_rows, read_rows
from everlearn.data import Source, open_source
from everlearn.data.reading import read_in_order

LAYOUTS = {"one process": (1, 20), "two processes": (2, 10)}
KEYS = ("source", "most", "method", "memory", "layout", "seed")


def thinned(source: Source, most: int, file: Path) -> None:
    """At most so many samples of each class to learn, a fifth as many held out, as an ``.npz`` with MedMNIST's keys."""
    rng, parts = np.random.default_rng(0), {}
    for name, held_out, limit in (("train", False, most), ("test", True, max(1, most // 5))):
        members = [np.flatnonzero((source.labels == c) & (source.test == held_out)) for c in np.unique(source.labels)]
        chosen = np.sort(np.concatenate([rng.permutation(m)[:limit] for m in members]))
        pictures = [p.transpose(1, 2, 0) for p in read_in_order(source, chosen, 0) if isinstance(p, np.ndarray)]
        parts |= {f"{name}_images": np.stack(pictures), f"{name}_labels": source.labels[chosen][:, None]}
    np.savez(file, **parts)


def run(source: str, method: str, memory: int, layout: str, seed: int, folder: Path) -> dict:
    processes, batch = LAYOUTS[layout]
    words = [source, "--run", folder / "run", "--method", method, "--memory", memory, "--seed", seed, "--json"]
    words += ["--batch", batch, "--replay", batch, "--processes", processes]
    command = [sys.executable, "-m", "everlearn", "learn", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    kept = ("average_accuracy", "forgetting", "accuracy_matrix", "steps", "samples_seen", "seconds", "versions")
    return {name: found[name] for name in kept}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:digits")
    parser.add_argument("--most", type=int, help="samples of each class")
    parser.add_argument("--methods", default="er,aser")
    parser.add_argument("--memory", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/processes.jsonl"))
    args = parser.parse_args()
    known = {tuple(row[key] for key in KEYS): row for row in read_rows(args.results)}
    name = Path(args.data).name
    with tempfile.TemporaryDirectory() as folder:
        source = args.data
        if args.most:
            source = str(Path(folder) / f"{name.replace(':', '-')}.npz")
            thinned(open_source(args.data), args.most, Path(source))
        wanted = [
            (name, args.most, method, args.memory, layout, seed)
            for seed in range(args.seeds) for method in args.methods.split(",") for layout in LAYOUTS
        ]  # fmt: skip
        for key in wanted:
            if key not in known:
                with tempfile.TemporaryDirectory() as place:
                    row = run(source, *key[2:], Path(place))
                known[key] = dict(zip(KEYS, key)) | row | {"torch": torch.__version__}
                append_rows(args.results, [known[key]])
            accuracy = known[key]["average_accuracy"]
            print(f"{key[2]}, {key[4]}, seed {key[5]}: {accuracy:.1%}", file=sys.stderr, flush=True)
    title = f"{name}, memory {args.memory}, {args.seeds} seeds"
    print(f"| {title} | one process, batch 20 | two, batch 10 each | difference |")
    print("|---|---|---|---|")
    for method in args.methods.split(","):
        both = [
            [100 * known[key]["average_accuracy"] for key in wanted if key[2] == method and key[4] == layout]
            for layout in LAYOUTS
        ]
        one, two = map(interval, both)
        far = interval([b - a for a, b in zip(*both)])
        cells = " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in (one, two, far))
        print(f"| {method} | {cells} |")


if __name__ == "__main__":
    main()
