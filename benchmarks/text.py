"""Texts learned one task after the other on a frozen sentence encoder, and explained by words.

    python benchmarks/text.py OUT --data FOLDER --backbone DIR [--seeds 3] [--most 500] [--explained 16]

FOLDER holds ag_news_15600.csv.gz and text_classification.csv.gz (TREC-6, SST-2, SUBJ, MR, CR). Two streams: AG News
class by class, and the five sets as five tasks, whose labels negative and positive three of them share. Every text is
encoded once, its seconds are told apart; then each learner sees the features. Maps over words are measured against
random orders on held-out texts of both streams. Results go to OUT/text.jsonl as they come; what is there is not run
again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn.bench.continual import Entry, Setting, key, run_one, settings_of
from everlearn.bench.costs import clock_of
from everlearn.bench.rows import append_rows, read_rows
from everlearn.bench.tables import as_markdown, machine, summary
from everlearn.data import Source, by_task, class_incremental, load, open_source
from everlearn.explainers import explain
from everlearn.learners import METHODS, SLDA, Learner
from everlearn.learners.learner import fast_bfloat16
from everlearn.models import TextModel, build_text_model
from everlearn.models.packed import PackedModel, pack

TOPICS = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
ORDER = ("trec6", "sst2", "subj", "mr", "cr")
LINES = {
    "naive": Entry("naive", "naive"),
    "er": Entry("ER", "er", ncm="ER + NCM of memory"),
    "er_ace": Entry("ER-ACE", "er_ace"),
    "aser": Entry("ASERμ", "aser", {"candidates": 90}, ncm="ASERμ + NCM of memory"),
    "aser_reservoir": Entry("ASERμ, reservoir memory", "aser", {"candidates": 90, "shapley_update": False}),
    "ncm": Entry("NCM", "ncm"),
    "slda": Entry("streaming LDA, ε = 0.1", "slda", {"shrinkage": 0.1}),
}
EXPLAINERS = ("token_masking", "occlusion", "integrated_gradients", "gradient_shap", "input_x_gradient")


def tables(data: Path, out: Path, most: int) -> dict[str, Path]:
    """Both streams as tables with the columns that Everlearn reads; of each task, class and part at most so many."""
    rows: dict[str, list[list[str]]] = {"ag": [], "tasks": []}
    for row in read(data / "ag_news_15600.csv.gz"):
        split = "train" if row["split"] == "dev" else "test"
        rows["ag"].append([split, TOPICS[row["label"]], "ag", row["content"]])
    for row in read(data / "text_classification.csv.gz"):
        label = {"0": "negative", "1": "positive"}.get(row["label"], row["label"])
        if row["split"] != "dev":
            split = row["split"] or ("test" if hash_of(row["text"]) % 5 == 0 else "train")
            rows["tasks"].append([split, label, f"{ORDER.index(row['task']) + 1} {row['task']}", row["text"]])
    files = {}
    for name, found in rows.items():
        files[name] = out / f"{name}-{most}.csv"
        with files[name].open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["split", "label", "task", "text"])
            writer.writerows(thinned(found, most))
    return files


def thinned(rows: list[list[str]], most: int) -> Iterator[list[str]]:
    kept: dict[tuple[str, ...], int] = defaultdict(int)
    for row in random.Random(0).sample(rows, len(rows)):
        kept[tuple(row[:3])] += 1
        if kept[tuple(row[:3])] <= most:
            yield row


def hash_of(text: str) -> int:
    return sum(text.encode())


def read(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def encoded(source: Source, model: TextModel, cache: Path) -> tuple[Source, float]:
    """The source with features for texts, and the processor's seconds that one text took."""
    if not cache.exists():
        begun, parts = time.process_time(), []
        device = torch.device("cpu")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(device)):
            for start in range(0, len(source), 500):
                inputs, _, kept = load(source, np.arange(start, min(start + 500, len(source))))
                assert len(kept) == len(inputs)
                parts.append(pack(model.features(inputs)).numpy())
                print(f"{source.name}: {start + len(kept)} of {len(source)} texts encoded", flush=True)
        np.savez(cache, features=np.concatenate(parts), seconds=(time.process_time() - begun) / len(source))
    held = np.load(cache)
    packed = held["features"]
    return replace(source, shape=packed.shape[1:], read=packed.__getitem__, text=False), float(held["seconds"])


def learner_of(source: Source, setting: Setting, line: Entry, memory: int, seed: int) -> Learner:
    model = PackedModel(source.shape[2] // 4)
    options = {"replay": setting.replay, **line.options}
    if line.averages(setting):
        options["average"] = setting.average
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    return METHODS[line.method](model, optimizer, memory=memory, seed=seed, precision="float32", **options)


def learn(name: str, source: Source, each: float, args: argparse.Namespace, file: Path) -> list[dict[str, Any]]:
    """All lines and seeds of one stream."""
    tasks = len(np.unique(source.tasks)) if name == "tasks" else 4
    setting = Setting(tasks=tasks, lr=3.0, backbone=Path(args.backbone).name, average=0.02)
    known, found = {key(row): row for row in read_rows(file) if "average_accuracy" in row}, []
    for seed in range(args.seeds):
        for line in LINES.values():
            names = list(line.readings(setting))
            keys = [key(settings_of(source, setting, line, each_, args.memory, seed)) for each_ in names]
            if not all(k in known for k in keys):
                stream = by_task(source, seed) if name == "tasks" else class_incremental(source, tasks, seed=seed)
                rows = run_one(
                    source, setting, line, args.memory, seed, build=learner_of, clock=clock_of(), stream=stream
                )
                rows = [row | {"encode_seconds": round(each * row["samples"], 2)} for row in rows]
                append_rows(file, rows)
                known |= {key(row): row for row in rows}
            found += [known[k] for k in keys]
    return found


def teacher(model: TextModel, source: Source, features: Source) -> Learner:
    """Streaming LDA on all of a stream's features, over the whole encoder."""
    learner = SLDA(model, memory=100, shrinkage=0.1)
    train = np.flatnonzero(~source.test)
    labels = torch.from_numpy(source.labels[train])
    y = learner.classes.indices(labels)
    model.head.grow(len(learner.classes.codes), learner.generator)
    packed = torch.from_numpy(np.stack([features.read(i) for i in train]))
    learner.add(packed.contiguous().view(torch.float32).flatten(1).double(), y)
    return learner


def measure(name: str, learner: Learner, source: Source, count: int, file: Path) -> list[dict[str, Any]]:
    """Every explainer on the same held-out texts."""
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(source.test))[:count]
    known = {(row["stream"], row["explainer"], row["text"]): row for row in read_rows(file) if "explainer" in row}
    found = []
    for method in EXPLAINERS:
        for i in chosen.tolist():
            if (name, method, i) not in known:
                begun, inputs = time.process_time(), torch.from_numpy(source.read(i))[None]
                e = explain(learner, inputs, explainer=method)[0]
                f = e.faithfulness
                known[name, method, i] = {
                    "stream": name, "explainer": method, "text": i, "words": len(e.parts), "insertion": f.insertion,
                    "deletion": f.deletion, "random": f.random_insertion - f.random_deletion, "verdict": f.verdict,
                    "seconds": round(time.process_time() - begun, 2),
                }  # fmt: skip
                append_rows(file, [known[name, method, i]])
            found.append(known[name, method, i])
    return found


def faithfulness_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| stream | map | insertion | deletion | insertion − deletion | random orders | supported | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stream, method in dict.fromkeys((row["stream"], row["explainer"]) for row in rows):
        of = [row for row in rows if (row["stream"], row["explainer"]) == (stream, method)]
        ins, dele, rand, sec = (
            statistics.mean(r[k] for r in of) for k in ("insertion", "deletion", "random", "seconds")
        )
        said = sum(row["verdict"] == "supported" for row in of)
        lines.append(f"| {stream} | {method} | {ins:.3f} | {dele:.3f} | {ins - dele:+.3f} | {rand:+.3f} "
                     f"| {said} of {len(of)} | {sec:.1f} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a directory for tables, features and results")
    parser.add_argument("--data", type=Path, required=True, help="folder with the two tables")
    parser.add_argument("--backbone", required=True, help="folder of the sentence encoder, or its package")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--memory", type=int, default=200)
    parser.add_argument("--most", type=int, default=500, help="texts of a class and task, learned and held out")
    parser.add_argument("--explained", type=int, default=16, help="held-out texts explained, of each stream")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, file = build_text_model(args.backbone), args.out / "text.jsonl"
    said = []
    for name, table in tables(args.data, args.out, args.most).items():
        source = open_source(table)
        features, each = encoded(source, model, args.out / f"{name}-{args.most}.npz")
        rows = learn(name, features, each, args, file)
        train, test = int((~source.test).sum()), int(source.test.sum())
        print(f"\n{name}: {train} texts learned, {test} held out; {1000 * each:.1f} ms of one processor to encode one;"
              f" memory {args.memory}\n\n{as_markdown(summary(rows))}\n", flush=True)  # fmt: skip
        model = build_text_model(args.backbone)
        said += measure(name, teacher(model, source, features), source, args.explained, file)
    print(faithfulness_table(said))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    main()
