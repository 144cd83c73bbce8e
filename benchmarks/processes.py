"""Two processes with a batch of 10 each beside one process with a batch of 20: final average accuracy over seeds.

    python benchmarks/processes.py --data builtin:digits [--most N] [--methods er,aser] [--memory 200] [--seeds 5]

Rows go to a file of JSON lines; what it holds already is not run again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from everlearn.bench.rows import append_rows, read_rows
from everlearn.data import Source, open_source
from everlearn.data.reading import read_in_order
from everlearn.learners import Group
from everlearn.metrics.continual import average_accuracy, forgetting
from everlearn.runs import Config, Run, learn, prepare
from everlearn.runs.choose import AVERAGED, average_over
from everlearn.scaling.processes import connect, launch, leave

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


def run(source: str, method: str, memory: int, layout: str, seed: int, folder: Path, group: Group) -> dict:
    """One run as `everlearn learn` has it, in so many processes as the group has; what rank 0 measured."""
    processes, batch = LAYOUTS[layout]
    samples = int((~open_source(source).test).sum())
    options = {"average": average_over(samples, batch * processes, 5)[0]} if method in AVERAGED else {}
    config = Config.of({
        "data": {"source": source}, "stream": {"batch": batch}, "seed": seed, "alarms": False,
        "learner": {"method": method, "memory": memory, "replay": batch, "options": options},
    })  # fmt: skip
    opened = group.first(lambda: Run.create(folder, config) if group.rank == 0 else Run.follow(folder))
    begun = time.process_time()
    with opened:
        learn(opened, prepared=prepare(config, group=group))
        progress = opened.progress
    found = {"steps": progress.step, "samples_seen": progress.samples_seen, "accuracy_matrix": progress.matrix}
    measured = {"average_accuracy": average_accuracy(progress.matrix), "forgetting": forgetting(progress.matrix)}
    return measured | found | {"cpu_seconds": round(time.process_time() - begun, 1), "torch": torch.__version__}


def run_all(wanted: list[tuple], source: str, results: Path, group: Group) -> None:
    """Those of the wanted runs that have this group's number of processes."""
    known = {tuple(row[key] for key in KEYS) for row in read_rows(results)}
    for key in wanted:
        if LAYOUTS[key[4]][0] != group.size or key in known:
            continue
        with tempfile.TemporaryDirectory() as place:
            where = [place] if group.alone else group.gather_bytes(place.encode())
            folder = Path(where[0] if group.alone else where[0].decode()) / "run"
            row = run(source, *key[2:], folder, group)
            group.first(lambda: None)  # nobody reads the folder any more
        if group.rank == 0:
            append_rows(results, [dict(zip(KEYS, key)) | row])
            print(f"{key[2]}, {key[4]}, seed {key[5]}: {row['average_accuracy']:.1%}", file=sys.stderr, flush=True)


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
    parser.add_argument("--thinned", help=argparse.SUPPRESS)  # for the processes that this one starts
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = Path(args.data).name
    wanted = [
        (name, args.most, method, args.memory, layout, seed)
        for seed in range(args.seeds) for method in args.methods.split(",") for layout in LAYOUTS
    ]  # fmt: skip
    group = Group(*connect())
    if not group.alone:
        run_all(wanted, args.thinned, args.results, group)
        leave()
        return
    with tempfile.TemporaryDirectory() as folder:
        source = args.data
        if args.most:
            source = str(Path(folder) / f"{name.replace(':', '-')}.npz")
            thinned(open_source(args.data), args.most, Path(source))
        run_all(wanted, source, args.results, group)
        launch([*sys.argv, "--thinned", source], 2)
    known = {tuple(row[key] for key in KEYS): row for row in read_rows(args.results)}
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
