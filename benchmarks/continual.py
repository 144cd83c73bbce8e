"""Table 1: continual learners in ASER's setting on Split CIFAR-10 or CIFAR-100, published figures beside ours.

    python benchmarks/continual.py FOLDER [--methods er,aser] [--memory 200,500] [--seeds 3] [--quick] [--json FILE]

FOLDER holds train/CLASS and test/CLASS; any other source works too, without published figures. Results go to a file of
JSON lines, from which an interrupted table goes on; --quick thins the samples out and takes minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from everlearn.data import open_source
from everlearn.errors import EverlearnError, SettingError
from everlearn.runs.bench_continual import Setting, entries, into_memory, run_table, thinned
from everlearn.runs.bench_table import as_markdown, dataset_of, machine, summary

TABLE_1 = "er,mir,gss,agem,aser,scr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--methods", default=TABLE_1, help=f"by default {TABLE_1}; also {', '.join(entries())}")
    parser.add_argument("--memory", help="sizes; by default 200,500,1000 for ten classes, 1000 for a hundred")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--tasks", type=int, help="by default 5 for ten classes, 10 for a hundred")
    parser.add_argument("--quick", action="store_true", help="250 + 50 samples of each class, the smallest memory")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/continual.jsonl"))
    parser.add_argument("--json", type=Path, help="where to write the summary")
    args = parser.parse_args()
    source = into_memory(open_source(args.source, size=None))
    dataset, classes = dataset_of(source.class_names), len(source.class_names)
    many = classes >= 100
    setting = Setting(tasks=args.tasks or (10 if many else min(5, classes)), quick=args.quick)
    memories = [int(text) for text in (args.memory or ("1000" if many else "200,500,1000")).split(",")]
    lines = entries(candidates=150 if many else 90)
    chosen = args.methods.split(",")
    for name in chosen:
        if name not in lines:
            raise SettingError(f"there is no line {name!r}; expected some of {', '.join(lines)}")
    if args.quick:
        source, memories = thinned(source), memories[:1]
    rows = run_table(
        source, setting, [lines[name] for name in chosen], memories, range(args.seeds), args.results,
        show=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    found = summary(rows, None if args.quick else dataset)
    what = f"{dataset or source.name}, {setting.tasks} tasks, one pass{', thinned out' if args.quick else ''}"
    foot = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"\n{what}\n\n{as_markdown(found)}\n\nseeds from 0 on; {foot}")
    if args.json:
        known = {"table": what, "seeds": list(range(args.seeds)), "machine": machine(), "rows": found}
        args.json.write_text(json.dumps(known, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except EverlearnError as error:
        sys.exit(f"continual.py: {error}")
