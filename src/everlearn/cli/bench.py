"""``everlearn bench``: the tables of README and docs, each by one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.bench import explain as explainers
from everlearn.bench import frozen
from everlearn.bench.continual import Setting, entries, into_memory, run_table, thinned
from everlearn.bench.explain_lines import lines as explainer_lines
from everlearn.bench.explain_pictures import table_pictures
from everlearn.bench.tables import as_markdown, dataset_of, machine, summary
from everlearn.cli import show
from everlearn.data import open_source
from everlearn.errors import SettingError

bench = typer.Typer(name="bench", help="Measure: published tables run anew, on standard sets or your own data.",
                    no_args_is_help=True)  # fmt: skip
_TABLE_1 = "er,mir,gss,agem,aser,scr"
_Data = Annotated[str, typer.Option(help="source: a class folder (train/CLASS, test/CLASS), a table, builtin:digits")]
_Results = Annotated[Path, typer.Option(help="JSON lines: kept as they come, and taken from when the table goes on")]


@bench.command()
def continual(
    data: _Data,
    table: Annotated[int, typer.Option(help="1: learners in ASER's setting; 2: on a frozen backbone")] = 1,
    methods: Annotated[str | None, typer.Option(help=f"of {', '.join(entries())}; by default the table's")] = None,
    memory: Annotated[str | None, typer.Option(help="sizes; by default 200,500,1000, for 100 classes 1000")] = None,
    seeds: Annotated[int, typer.Option(help="how many, from 0 on")] = 1,
    tasks: Annotated[int | None, typer.Option(help="by default 5, for 100 classes 10")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="250 + 50 samples of each class, the smallest memory")] = False,
    most: Annotated[int | None, typer.Option(help="samples of each class, at most; a fifth as many held out")] = None,
    backbone: Annotated[str, typer.Option(help="table 2: the pretrained backbone")] = "tf_efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(help="table 2: its safetensors file; by default fetched")] = None,
    size: Annotated[int, typer.Option(help="table 2: pixels a side that it sees")] = 224,
    results: _Results = Path("benchmarks/results/continual.jsonl"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Continual learners on a class-incremental stream, published figures beside ours."""
    if table == 2:
        what, rows = frozen.table(data, backbone, weights, size, methods, memory, seeds, tasks, most, results, said)
        finish(what, as_markdown(summary(rows)), {"seeds": list(range(seeds)), "rows": summary(rows)}, json)
        return
    if table != 1:
        raise SettingError(f"there is no table {table}; expected 1 or 2")
    source = into_memory(open_source(data, size=None))
    dataset, classes = dataset_of(source.class_names), len(source.class_names)
    many = classes >= 100
    setting = Setting(tasks=tasks or (10 if many else min(5, classes)), quick=quick)
    memories = numbers("--memory", memory or ("1000" if many else "200,500,1000"))
    lines = entries(candidates=150 if many else 90)
    chosen = (methods or _TABLE_1).split(",")
    for name in chosen:
        if name not in lines:
            raise SettingError(f"there is no line {name!r}; expected some of {', '.join(lines)}")
    if quick:
        source, memories = thinned(source), memories[:1]
    rows = run_table(source, setting, [lines[name] for name in chosen], memories, range(seeds), results, show=said)
    found = summary(rows, None if quick else dataset)
    what = f"{dataset or source.name}, {setting.tasks} tasks, one pass{', thinned out' if quick else ''}"
    finish(what, as_markdown(found), {"seeds": list(range(seeds)), "rows": found}, json)


@bench.command()
def explain(
    data: Annotated[Path, typer.Option(help="folder with meta.jsonl and pictures, or a folder of such folders")],
    table: Annotated[int, typer.Option(help="1: explainers on EfficientNet-Lite0")] = 1,
    weights: Annotated[Path | None, typer.Option(help="safetensors file of it; by default downloaded")] = None,
    methods: Annotated[str | None, typer.Option(help=f"of {', '.join(explainer_lines())}; by default all")] = None,
    pictures: Annotated[int, typer.Option(help="of each set, at most", min=1)] = 1000,
    slow: Annotated[int, typer.Option(help="pictures for what takes a thousand forwards", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="of the random maps")] = 0,
    results: _Results = Path("benchmarks/results/explain.jsonl"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Explainers on one model and the same pictures: where maps point, how faithful they are, what they cost."""
    if table != 1:
        raise SettingError(f"there is no table {table}; expected 1")
    chosen = explainers.chosen(explainer_lines(), methods)
    model = explainers.load_model(weights)
    shown = table_pictures(data, model, explainers.SIZE, pictures)
    rows = explainers.run_table(model, shown, chosen, results, slow=slow, seed=seed, show=said)
    found, marked = explainers.summary(rows), sum(p.region is not None for p in shown)
    what = f"{explainers.MODEL}, {len(shown)} pictures, {marked} of them with boxes; seed {seed}"
    finish(what, explainers.as_markdown(found), {"seed": seed, "rows": found}, json)


def said(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers out of a list with commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(f"{option} is {text!r}; expected whole numbers with commas between") from error


def finish(what: str, markdown: str, found: dict[str, Any], json: bool) -> None:
    """Print a table with the machine at its foot, or one JSON object."""
    if json:
        show.print_json({"table": what, **found, "machine": machine()})
        return
    print(f"\n{what}\n\n{markdown}\n\n{', '.join(f'{name} {value}' for name, value in machine().items())}")
