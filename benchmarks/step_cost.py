"""What a learning step costs: a bare PyTorch loop, ER and ASER side by side, at CIFAR-10's size with a full memory.

    python benchmarks/step_cost.py [--rounds 15] [--memory 1000] [--json FILE]

ASER comes with each way of scoring. All take turns, so that a machine whose speed drifts slows all alike; medians and
their ratios are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from everlearn.data import Batch
from everlearn.learners import ASER, ER, Learner
from everlearn.models import build_model

TURN = 16  # steps of a turn


def batches(seed: int) -> Callable[[], Batch]:
    """Ten pictures of CIFAR-10's size and two of its ten classes, anew at each call."""
    rng, count = torch.Generator().manual_seed(seed), 0

    def draw() -> Batch:
        nonlocal count
        count += 1
        labels = 2 * (count // 120 % 5) + torch.randint(2, (10,), generator=rng)
        pixels = torch.randint(256, (10, 3, 32, 32), generator=rng, dtype=torch.uint8)
        return Batch(pixels, labels, torch.arange(10) + 10 * count)

    return draw


def bare_loop(bfloat16: bool) -> Callable[[Batch], None]:
    """The same network, batch of 20, precision and optimiser, written by hand: forward, backward, step."""
    model = build_model("slim_resnet18")
    model.head.grow(10, torch.Generator())
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = torch.randint(256, (1000, 3, 32, 32), dtype=torch.uint8)
    kept_labels = torch.randint(10, (1000,))

    def step(batch: Batch) -> None:
        slots = torch.randint(1000, (10,))
        x = torch.cat([kept[slots], batch.inputs]).float() / 255
        y = torch.cat([kept_labels[slots], batch.labels])
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model.head(model.backbone(x.contiguous(memory_format=torch.channels_last)))
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        kept[slots] = batch.inputs

    return step


def learner_step(learner: Learner, memory: int) -> Callable[[Batch], None]:
    draw = batches(1)
    while not learner.memory.full or learner.step < memory // 10 + 20:
        learner.observe(draw())
    return lambda batch: learner.observe(batch) and None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    er = ER(build_model("slim_resnet18"), memory=args.memory)
    steps = {
        "bare loop": bare_loop(er.bfloat16),
        "er": learner_step(er, args.memory),
    }
    for scoring in ("cached", "exact"):
        settings = {"scoring": scoring} if scoring != "exact" else {"scoring": scoring, "candidates": 90, "mix": 100.0}
        steps[f"aser {scoring}"] = learner_step(
            ASER(build_model("slim_resnet18"), memory=args.memory, **settings), args.memory
        )
    draw, seconds = batches(2), {name: [] for name in steps}
    for _ in range(args.rounds):
        batch = draw()
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(TURN):
                step(batch)
            seconds[name].append((time.perf_counter() - begun) / TURN)
    report(seconds, args, er.bfloat16)


def report(seconds: dict[str, list[float]], args: argparse.Namespace, bfloat16: bool) -> None:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    pairs = [("er", "bare loop"), *((name, "er") for name in seconds if name.startswith("aser"))]
    ratios = {f"{a} / {b}": statistics.median(x / y for x, y in zip(seconds[a], seconds[b])) for a, b in pairs}
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"{name:12} {1000 * median:7.1f} ms a step   ({1000 * low:.1f} … {1000 * high:.1f})")
    for name, ratio in ratios.items():
        print(f"{name:17} {ratio:.2f}")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {'bfloat16' if bfloat16 else 'float32'}"
    print(f"memory {args.memory}, {args.rounds} rounds in turn; torch {torch.__version__}, {machine}")
    if args.json:
        known = {"memory": args.memory, "rounds": args.rounds, "torch": torch.__version__, "machine": machine}
        args.json.write_text(json.dumps({"median_seconds": medians, "ratios": ratios, **known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
