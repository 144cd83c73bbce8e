"""Whether an expert's corrections hold, and what they cost the rest, on features of a frozen backbone.

    python benchmarks/corrections.py --data FOLDER --weights FILE [--most 300] [--size 128] [--seen 1 10 100]

EfficientNet-Lite0, class-incremental, one pass. Then held-out pictures that are predicted wrong are corrected as
`everlearn serve` does (`learn_review`): each by itself from the state after the stream, and all in a row. ``--seen``
weighs the sums of the methods that have some as if every sample had come so many times.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlearn.bench.continual import thinned_to
from everlearn.bench.frozen import encode
from everlearn.bench.tables import machine
from everlearn.data import class_incremental, load, open_source
from everlearn.learners import METHODS, Learner
from everlearn.learners.streaming_head import StreamingHead
from everlearn.models import build_model
from everlearn.models.packed import PackedModel
from everlearn.runs.review_step import learn_review
from everlearn.runs.reviews import REVIEW_IDS

METHODS_AND_OPTIONS: dict[str, dict[str, Any]] = {
    "ncm": {},
    "slda": {"shrinkage": 0.1},
    "random_features": {},
    "er": {},
}


def learned(name: str, stream: Any, seen: int) -> Learner:
    """A learner after the stream, whose sums weigh as if it had come ``seen`` times."""
    model = PackedModel(stream.source.shape[2] // 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    learner = METHODS[name](model, optimizer, memory=200, precision="float32", **METHODS_AND_OPTIONS[name])
    for batch in stream.batches(10):
        learner.observe(batch)
    if isinstance(learner, StreamingHead):
        learner.sums = {key: value if key == "mean" else value * seen for key, value in learner.sums.items()}
        learner.samples_seen *= seen
        learner.forget_derived()
    return learner


def corrected(learner: Learner, x: Tensor, y: Tensor, most: int) -> dict[str, Any]:
    """Correct up to ``most`` wrong predictions of the samples, one by one and in a row."""
    state = deepcopy(learner.state_dict())
    right = learner.predict(x).labels == y
    wrong = (~right).nonzero().flatten()
    wrong = wrong[torch.randperm(len(wrong), generator=torch.Generator().manual_seed(0))[:most]]
    others = torch.ones(len(y), dtype=torch.bool)
    others[wrong] = False
    held, change = [], []
    for i in wrong.tolist():
        learner.load_state_dict(deepcopy(state))
        learn_review(learner, x[i], int(y[i]), REVIEW_IDS + 1, correction=True)
        now = learner.predict(x).labels == y
        held.append(bool(now[i]))
        change.append(float((now.float() - right.float())[others].mean()))
    learner.load_state_dict(deepcopy(state))
    for n, i in enumerate(wrong.tolist(), 1):
        learn_review(learner, x[i], int(y[i]), REVIEW_IDS + n, correction=True)
    now = learner.predict(x).labels == y
    return {
        "accuracy": float(right.float().mean()),
        "corrected": len(wrong),
        "hold": sum(held),
        "others": float(np.mean(change)),
        "others_worst": min(change),
        "hold_in_a_row": int(now[wrong].sum()),
        "others_in_a_row": float((now.float() - right.float())[others].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--most", type=int, default=None, help="pictures of each class, a fifth as many held out")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--corrections", type=int, default=20)
    parser.add_argument("--seen", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = thinned_to(open_source(args.data, size=args.size, channels=3), args.most)
    model = build_model("tf_efficientnet_lite0", size=args.size, weights=args.weights)
    stream = class_incremental(encode(source, model, show=print)[0], 5)
    x, _, kept = load(stream.source, np.concatenate(stream.tests()))
    y, rows = torch.as_tensor(np.asarray(stream.labels(kept))), []
    print("| method | seen | accuracy, % | corrections that hold | others, points (worst) | all in a row | others |")
    print("|---|---|---|---|---|---|---|")
    for name in METHODS_AND_OPTIONS:
        for seen in args.seen if name != "er" else [1]:
            row = corrected(learned(name, stream, seen), x, y, args.corrections)
            rows.append({"method": name, "seen": seen, "source": Path(source.name).name} | row)
            print(f"| {name} | {seen} | {row['accuracy']:.1%} | {row['hold']} of {row['corrected']} "
                  f"| {100 * row['others']:+.2f} ({100 * row['others_worst']:+.2f}) | {row['hold_in_a_row']} "
                  f"| {100 * row['others_in_a_row']:+.2f} |", flush=True)  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in machine().items()), "seed 0")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "seed": 0, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
