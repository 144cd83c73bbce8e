"""Does learning's need of memory stay flat? Many steps on pictures of digits' size; what the process holds is recorded.

    python benchmarks/flat_memory.py [--steps 100000] [--methods er,aser] [--json FILE]

The stream never ends: its ten classes come in pairs, over and over, with noise anew in every picture. Recorded every
hundredth of the way: resident memory of the process, its peak, live tensors and their bytes, and objects that Python
counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import time
from pathlib import Path

import torch
from torch import nn

from everlearn.data import Batch
from everlearn.learners import METHODS, Learner
from everlearn.models import Model

PATTERNS = torch.randint(60, 200, (10, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def batch(i: int, rng: torch.Generator) -> Batch:
    labels = 2 * (i // 200 % 5) + torch.randint(2, (10,), generator=rng)
    noise = torch.randint(-50, 51, (10, 1, 8, 8), generator=rng)
    return Batch((PATTERNS[labels] + noise).to(torch.uint8), labels, torch.arange(10 * i, 10 * i + 10))


def network() -> Model:
    """Two layers: what takes memory is what is around them."""
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)]
    return Model(nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), feature_dim=32)


def held(step: int) -> dict[str, float]:
    """What the process holds."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "step": step,
        "rss_mib": round(resident / 2**20, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "tensors": len(tensors),
        "tensor_mib": round(sum(t.numel() * t.element_size() for t in tensors) / 2**20, 2),
        "objects": len(objects),
    }


def learn(learner: Learner, steps: int) -> list[dict[str, float]]:
    rng, rows = torch.Generator().manual_seed(1), []
    for i in range(steps):
        learner.observe(batch(i, rng))
        if (i + 1) % max(1, steps // 100) == 0:
            rows.append(held(i + 1))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--methods", default="er,aser")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for method in args.methods.split(","):
        learner = METHODS[method](network(), memory=200, average=0.01)
        begun = time.process_time()
        rows = learn(learner, args.steps)
        seconds = time.process_time() - begun
        tenth = rows[max(0, len(rows) // 10 - 1)]  # memory is full, allocators have settled
        grown = {name: round(rows[-1][name] - tenth[name], 2) for name in rows[0] if name != "step"}
        cost = round(1000 * seconds / args.steps, 2)
        found[method] = {"rows": rows, "grown_since_a_tenth": grown, "ms_a_step": cost}
        print(f"{method}: {args.steps} steps, {cost} ms each; since step {tenth['step']}: {grown}", flush=True)
        if args.json:
            known = {"steps": args.steps, "memory": 200, "torch": torch.__version__, "machine": platform.machine()}
            args.json.write_text(json.dumps(known | {"methods": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
