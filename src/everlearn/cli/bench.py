"""``everlearn bench``: the tables of README and docs, each by one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.bench import discovery as pools
from everlearn.bench import explain as explainers
from everlearn.bench import explain_paired, frozen, mislabelled, peers
from everlearn.bench import right_reasons_table as reasons
from everlearn.bench import valuation as values
from everlearn.bench.continual import Setting, entries, into_memory, run_table, thinned, thinned_to
from everlearn.bench.discovery_tables import as_markdown as discovery_markdown
from everlearn.bench.discovery_tables import summary as discovery_summary
from everlearn.bench.explain_lines import lines as explainer_lines
from everlearn.bench.explain_pictures import check_folder, table_pictures
from everlearn.bench.tables import as_markdown, dataset_of, machine, summary
from everlearn.cli import show
from everlearn.data import open_source
from everlearn.errors import SettingError

bench = typer.Typer(name="bench", help="Measure: published tables run anew, on standard sets or your own data.",
                    add_completion=False)  # fmt: skip
_TABLE_1 = "er,mir,gss,agem,aser,scr"
_Data = Annotated[str, typer.Option(help="source: a class folder (train/CLASS, test/CLASS), a table, builtin:digits")]
_Results = Annotated[Path, typer.Option(help="JSON lines: kept as they come, and taken from when the table goes on")]


@bench.command()
def continual(
    data: _Data,
    table: Annotated[int, typer.Option(help="1: learners in ASER's setting; 2: on a frozen backbone; 3: peers")] = 1,
    methods: Annotated[str | None, typer.Option(help=f"of {', '.join(entries())}; by default the table's")] = None,
    memory: Annotated[str | None, typer.Option(help="sizes; by default 200,500,1000, for 100 classes 1000")] = None,
    seeds: Annotated[int, typer.Option(help="how many, from 0 on", min=1)] = 1,
    tasks: Annotated[int | None, typer.Option(help="by default 5, for 100 classes 10", min=1)] = None,
    order: Annotated[
        str, typer.Option(help="table 1: of the classes, natural or seeded: drawn anew for each seed")
    ] = "natural",
    quick: Annotated[bool, typer.Option("--quick", help="250 + 50 samples of each class, the smallest memory")] = False,
    most: Annotated[
        int | None, typer.Option(help="samples of each class, at most; a fifth as many held out", min=1)
    ] = None,
    backbone: Annotated[str, typer.Option(help="table 2: the pretrained backbone")] = "tf_efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(help="table 2: its safetensors file; by default fetched")] = None,
    size: Annotated[int, typer.Option(help="table 2: pixels a side that it sees", min=1)] = 224,
    average: Annotated[
        float, typer.Option(help="table 1: read off with weights averaged over 1/this steps too", min=0, max=1)
    ] = 0.01,
    results: _Results = Path("benchmarks/results/continual.jsonl"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Continual learners on a class-incremental stream, published figures beside ours."""
    if table == 2:
        what, rows = frozen.table(data, backbone, weights, size, methods, memory, seeds, tasks, most, results, said)
        finish(what, as_markdown(summary(rows)), {"seeds": list(range(seeds)), "rows": summary(rows)}, json)
        return
    if table == 3:
        what, found_ = peers.table(data, methods, memory, seeds, tasks, most, results, said)
        finish(what, peers.as_markdown(found_), {"seeds": list(range(seeds)), "rows": found_}, json)
        return
    if table != 1:
        raise SettingError(f"there is no table {table}; expected 1, 2 or 3")
    if quick and most is not None:
        raise SettingError("--quick and --most both say how many samples; leave one out")
    source = open_source(data, size=None)
    source = into_memory(thinned(source) if quick else thinned_to(source, most))
    dataset, classes = dataset_of(source.class_names), len(source.class_names)
    many = classes >= 100
    tasks = tasks or (10 if many else min(5, classes))
    setting = Setting(tasks=tasks, quick=quick, average=average, order=order)
    memories = numbers("--memory", memory or ("1000" if many else "200,500,1000"))
    lines = entries(many)
    chosen = (methods or _TABLE_1).split(",")
    for name in chosen:
        if name not in lines:
            raise SettingError(f"there is no line {name!r}; expected some of {', '.join(lines)}")
    memories = memories[:1] if quick else memories
    rows = run_table(source, setting, [lines[name] for name in chosen], memories, range(seeds), results, show=said)
    whole = not quick and most is None
    found = summary(rows, dataset if whole else None)
    name = dataset if dataset and whole else source.name
    what = f"{name}, {setting.tasks} tasks, {order} order of classes, one pass{', thinned out' if quick else ''}"
    finish(what, as_markdown(found), {"seeds": list(range(seeds)), "rows": found}, json)


@bench.command()
def explain(
    data: Annotated[Path, typer.Option(help="folder with meta.jsonl and pictures, or a folder of such folders")],
    table: Annotated[int, typer.Option(help="1: explainers on EfficientNet-Lite0; 2: right reasons, chest X-rays")] = 1,
    weights: Annotated[Path | None, typer.Option(help="safetensors file of it; by default downloaded")] = None,
    methods: Annotated[str | None, typer.Option(help=f"of {', '.join(explainer_lines())}; by default all")] = None,
    pictures: Annotated[int, typer.Option(help="of each set, at most", min=1)] = 1000,
    slow: Annotated[int, typer.Option(help="pictures for what takes a thousand forwards", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="of the random maps")] = 0,
    lungs: Annotated[Path | None, typer.Option(help="table 2: folder with lung masks and boxes in meta.jsonl")] = None,
    seeds: Annotated[int, typer.Option(help="table 2: how many, from 0 on", min=1)] = 3,
    size: Annotated[int, typer.Option(help="table 2: pixels a side", min=64, max=224)] = 128,
    quick: Annotated[bool, typer.Option("--quick", help="table 2: 60 pictures of each class, one seed")] = False,
    picture: Annotated[Path | None, typer.Option(help="table 2: PNG of maps before and after")] = None,
    results: _Results = Path("benchmarks/results/explain.jsonl"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Explainers on one model and the same pictures: where maps point, how faithful they are, what they cost."""
    check_folder(data)
    if table == 2:
        what, text, found_ = reasons.table(
            data, lungs, weights, methods, range(1 if quick else seeds), results, pictures=min(pictures, 24),
            slow=slow, size=size, quick=quick, picture=picture, show=said,
        )  # fmt: skip
        finish(what, text, found_, json)
        return
    if table != 1:
        raise SettingError(f"there is no table {table}; expected 1 or 2")
    chosen = explainers.chosen(explainer_lines(), methods)
    model = explainers.load_model(weights)
    shown = table_pictures(data, model, explainers.SIZE, pictures)
    rows = explainers.run_table(model, shown, chosen, results, slow=slow, seed=seed, show=said)
    found, marked = explainers.summary(rows), sum(p.region is not None for p in shown)
    what = f"{explainers.MODEL}, {len(shown)} pictures, {marked} of them with boxes; seed {seed}"
    paired = explain_paired.against_the_best(rows)
    text = f"{explainers.as_markdown(found)}\n\n{explain_paired.as_text(paired)}".rstrip()
    finish(what, text, {"seed": seed, "rows": found, "paired": paired}, json)


@bench.command()
def discovery(
    folder: Annotated[Path | None, typer.Option(help=f"where the files of {', '.join(pools.SETS)} are")] = None,
    sets: Annotated[str, typer.Option(help="some of these")] = ",".join(pools.SETS),
    data: Annotated[Path | None, typer.Option(help="POOL.csv: any table whose values are known, instead")] = None,
    target: Annotated[str | None, typer.Option(help="with --data: the measured column")] = None,
    minimise: Annotated[bool, typer.Option("--minimise", help="with --data: small values are wanted")] = False,
    inputs: Annotated[str | None, typer.Option(help="with --data: smiles, composition or columns")] = None,
    group: Annotated[str | None, typer.Option(help="with --data: column of the group split; no input")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="with --data: a further column that is no input")] = None,
    strategies: Annotated[str, typer.Option(help="which choose")] = ",".join(pools.STRATEGIES),
    seeds: Annotated[int, typer.Option(help="how many")] = 20,
    first_seed: Annotated[int, typer.Option(help="from this on")] = 0,
    rows: Annotated[int, typer.Option(help="of each set at most, drawn with seed 0")] = 5000,
    most: Annotated[int, typer.Option(help="experiments after which one gives up")] = pools.MOST,
    splits: Annotated[int, typer.Option(help="random and group splits that errors are measured on, of each")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="1000 rows, 2 seeds, 1 split, giving up at 150")] = False,
    results: _Results = Path("benchmarks/results/discovery.jsonl"),
    scratch: Annotated[Path, typer.Option(help="for tables drawn and features computed")] = Path("runs/bench"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Experiments until half of the best 1 % are found, peers in the same run; errors of prediction beside it."""
    if (data is None) == (folder is None):
        raise SettingError("give either --folder DIRECTORY of the sets, or --data POOL.csv --target COLUMN")
    for option, value, least in (
        ("--splits", splits, 0),
        ("--seeds", seeds, 1),
        ("--rows", rows, 1),
        ("--most", most, pools.FIRST),
    ):
        if value < least:
            raise SettingError(f"{option} is {value}; expected {least} or more")
    if quick:
        seeds, rows, most, splits = min(seeds, 2), min(rows, 1000), min(most, 150), 1
    chosen = pools.sets_in(folder, sets.split(",")) if folder is not None else []
    if data is not None:
        if not target:
            raise SettingError("--data needs --target COLUMN")
        chosen = [pools.PoolSet(data.stem, data, target, minimise, inputs, group, ignore=tuple(ignore or ()))]
    found = []
    for each in chosen:
        problem = pools.Problem(each, rows, scratch)
        found += pools.run_table(problem, strategies.split(","), range(first_seed, first_seed + seeds), results, most,
                                 splits, said)  # fmt: skip
    table = discovery_summary(found)
    finish("Discovery", discovery_markdown(table), {"rows": rows, "most": most, "sets": table}, json)


@bench.command()
def valuation(
    table: Annotated[int, typer.Option(help="1: speed, 2: memory at a million candidates, 3: wrong labels")] = 1,
    data: Annotated[str | None, typer.Option(help="table 3: source of pictures with labels")] = None,
    weights: Annotated[Path | None, typer.Option(help="table 3: EfficientNet-Lite0, safetensors")] = None,
    candidates: Annotated[int | None, typer.Option(help="by default 10000, a million, and 5000 samples")] = None,
    points: Annotated[int, typer.Option(help="evaluation points", min=1)] = 1000,
    features: Annotated[int, typer.Option(help="dimensions", min=1)] = 128,
    peer_points: Annotated[int | None, typer.Option(help="points for peers, their time multiplied up", min=1)] = None,
    methods: Annotated[str | None, typer.Option(help=f"table 1: of {', '.join(values.LINES)}")] = None,
    max_mib: Annotated[int, typer.Option(help="table 2: bound on working memory", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="of problem and flips")] = 0,
    results: _Results = Path("benchmarks/results/valuation.jsonl"),
    json: Annotated[bool, typer.Option("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """KNN-Shapley values beside pyDVL, dattri and cleanlab: speed, memory, wrong labels found."""
    if table == 1:
        size = values.Size(candidates or 10_000, points, features)
        names = methods.split(",") if methods else values.installed()
        rows = values.run_speed(names, size, results, peer_points=peer_points, seed=seed, show=said)
        what, text = f"{size.candidates} candidates × {points} points × {features} features", values.as_markdown(rows)
    elif table == 2:
        row = values.run_large(values.Size(candidates or 1_000_000, points, features), max_mib * 2**20, seed)
        rows, what = [row], f"{row['candidates']} candidates × {points} points × {features} features, mean values"
        text = values.memory_line(row)
    elif table == 3 and data is not None:
        source = open_source(data, size=None)
        x, y = mislabelled.encoded(source, candidates or 5000, weights, seed)
        rows = mislabelled.run_mislabelled(x, y, len(source.class_names), seed, said)
        what, text = f"{source.name}: {len(y)} samples, 10 % of labels flipped", mislabelled.as_markdown(rows)
    else:
        raise SettingError(f"table is {table}, data {data}; expected table 1, 2, or 3 with --data")
    finish(f"{what}; seed {seed}", text, {"seed": seed, "rows": rows}, json)


def said(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers out of a list with commas."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise SettingError(f"{option} is {text!r}; expected whole numbers of 1 or more with commas between")
    return found


def finish(what: str, markdown: str, found: dict[str, Any], json: bool) -> None:
    """Print a table with the machine at its foot, or one JSON object."""
    if json:
        show.print_json({"table": what, **found, "machine": machine()})
        return
    print(f"\n{what}\n\n{markdown}\n\n{', '.join(f'{name} {value}' for name, value in machine().items())}")
