"""The planner against published and measured runs: every shared row predicted, in sample and held out.

    python benchmarks/plan.py OUT [--data FOLDER] [--crossvalidate]

writes OUT/plan.json and OUT/plan.png. Held out: the constants of the A100 are fitted anew, from datasheet-like
starting values, on half of the rows of each source and on all sources but one, and judged on the rest.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from everlearn.scaling.plan import collectives, compute, kernels
from everlearn.scaling.plan.plan import estimate
from everlearn.scaling.plan.published import Case, read_cases
from everlearn.scaling.plan.validate import Validation, predicted, validate

SEED = 0
METRICS = ("seconds", "tokens_per_s", "tflops", "mfu", "hfu", "memory_gib", "days")
# The constants of the A100 and of Megatron 2021 that were fitted, and where a fit begins: rough values of any device.
START = {
    "gemm_efficiency": 0.7,
    "hbm_efficiency": 0.8,
    "domain_efficiency": 0.8,
    "network_efficiency": 0.8,
    "host_forward_us": 700.0,
    "kernel_us": 4.0,
    "ramp": 128.0,
    "overlap_tensor": 0.5,
}
Judged = tuple[Case, str]


def groups(data: Path) -> dict[str, list[Judged]]:
    """Rows by source, each with the one figure that it is judged by; A100 runs only."""
    found: dict[str, list[Judged]] = {}
    files = {"runs": "published_runs.csv", "bloom": "bloom_tr11_layout_sweep.csv"}
    files |= {"vtrain multi": "vtrain_ground_truth_multi.csv", "vtrain single": "vtrain_ground_truth_single.csv"}
    prefixes = {"korthikanti_t5": "2205.05198", "sc21": "SC'21", "mtnlg": "MT-NLG"}
    for source, file in files.items():
        for case in read_cases(data / file)[1]:
            if not isinstance(case, Case) or case.layout.zero == 3:
                continue
            name = source
            if source == "runs":
                name = next((title for prefix, title in prefixes.items() if case.name.startswith(prefix)), "")
            metric = next((m for m in ("seconds", "tflops") if m in case.published), None)
            if name and metric:
                found.setdefault(name, []).append((case, metric))
    return found


@contextmanager
def constants(values: dict[str, float]) -> Iterator[None]:
    """Kernel constants set for a while."""
    before = kernels.KERNEL_SECONDS, kernels.RAMP
    kernels.KERNEL_SECONDS, kernels.RAMP = 1e-6 * values["kernel_us"], values["ramp"]  # type: ignore[assignment]
    kernels.gemm_seconds.cache_clear()
    compute.all_blocks.cache_clear()
    try:
        yield
    finally:
        kernels.KERNEL_SECONDS, kernels.RAMP = before
        kernels.gemm_seconds.cache_clear()
        compute.all_blocks.cache_clear()


def error(judged: Judged, values: dict[str, float]) -> float:
    """Relative error of a row's time under the given constants."""
    case, metric = judged
    device = replace(case.cluster.device, **{k: values[k] for k in ("gemm_efficiency", "hbm_efficiency")})
    wires = {k: values[k] for k in ("domain_efficiency", "network_efficiency")}
    cluster = replace(case.cluster, device=device, **wires)
    stack = replace(case.stack, host_forward_us=values["host_forward_us"])
    if stack.overlap_tensor:
        stack = replace(stack, overlap_tensor=values["overlap_tensor"])
    plan = estimate(case.shape, case.layout, cluster, stack)
    ratio = predicted(case, plan, metric) / case.published[metric]
    return (1 / ratio if metric == "tflops" else ratio) - 1


def mean_error(rows: list[Judged], values: dict[str, float]) -> float:
    return fmean(abs(error(row, values)) for row in rows)


def loss(train: dict[str, list[Judged]], values: dict[str, float]) -> float:
    """Mean over the sources of their mean absolute errors, an outlier counted as 30 %; of a source 100 rows at most."""
    if any(values[k] > 0.97 for k in START if k.endswith("efficiency") or k.startswith("overlap")):
        return 9.0
    with constants(values):
        return fmean(fmean(min(0.3, abs(error(row, values))) for row in rows[:100]) for rows in train.values())


def fit(train: dict[str, list[Judged]], rounds: int = 3) -> dict[str, float]:
    """Coordinate descent with shrinking steps; no constant sees a row of the other part."""
    best, step = dict(START), 0.16
    least = loss(train, best)
    for _ in range(rounds):
        for name in START:
            for factor in (1 + step, 1 / (1 + step)):
                tried = best | {name: best[name] * factor}
                while (now := loss(train, tried)) < least - 1e-5:
                    best, least = tried, now
                    tried = best | {name: best[name] * factor}
        step /= 2
    return best


def crossvalidate(data: Path, console: Console) -> dict[str, dict[str, dict[str, float]]]:
    """Held-out errors: halves of every source, and each source left out."""
    found = groups(data)
    rng = random.Random(SEED)
    for rows in found.values():
        rng.shuffle(rows)
    runs = {
        "fitted on half A": ({k: v[::2] for k, v in found.items()}, {k: v[1::2] for k, v in found.items()}),
        "fitted on half B": ({k: v[1::2] for k, v in found.items()}, {k: v[::2] for k, v in found.items()}),
    }
    for name, rows in found.items():
        runs[f"{name} left out"] = ({k: v for k, v in found.items() if k != name}, {name: rows})
    result = {}
    for name, (train, held) in runs.items():
        values = fit(train)
        with constants(values):
            result[name] = {
                "constants": values,
                "in_sample": {k: mean_error(v, values) for k, v in train.items() if v},
                "held_out": {k: mean_error(v, values) for k, v in held.items() if v},
            }
        console.print(f"{name}: held out " + ", ".join(f"{k} {v:.1%}" for k, v in result[name]["held_out"].items()))
    return result


def table(validations: list[Validation], console: Console) -> None:
    shown = Table(title="predicted against published: mean absolute error (bias), figures", title_justify="left")
    shown.add_column("file")
    for metric in METRICS:
        shown.add_column(metric, justify="right")
    for validation in validations:
        means = validation.means
        cells = [
            f"{means[m]['mean_abs_error']:.1%} ({means[m]['bias']:+.1%}), {means[m]['rows']}" if m in means else ""
            for m in METRICS
        ]
        shown.add_row(validation.file, *cells)
    console.print(shown)


def plot(validations: list[Validation], path: Path) -> None:
    """Predicted over published: one panel for each kind of figure, a line for exact and a band of ±10 %."""
    kinds = {
        "seconds": "seconds a step",
        "tokens_per_s": "tokens/s/device",
        "tflops": "TFLOP/s/device",
        "memory_gib": "GiB",
    }
    figure, axes = plt.subplots(2, 2, figsize=(11, 10), layout="constrained")
    for axis, (metric, title) in zip(axes.flat, kinds.items()):
        low, high = float("inf"), 0.0
        for validation in validations:
            points = [(c.published, c.predicted) for c in validation.comparisons if c.metric == metric]
            if points:
                x, y = zip(*points)
                axis.plot(x, y, "o", ms=4, alpha=0.6, label=f"{validation.file.removesuffix('.csv')} ({len(points)})")
                low, high = min(low, *x, *y), max(high, *x, *y)
        line = [low * 0.8, high * 1.25]
        axis.plot(line, line, "k-", lw=1)
        axis.fill_between(line, [0.9 * v for v in line], [1.1 * v for v in line], color="k", alpha=0.1, label="±10 %")
        axis.set(xscale="log", yscale="log", xlabel="published", ylabel="predicted", title=title, xlim=line, ylim=line)
        axis.legend(fontsize=8)
    figure.suptitle("everlearn plan: predicted against published runs")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory for plan.json and plan.png")
    parser.add_argument("--data", type=Path, required=True, help="folder of CSV files")
    parser.add_argument(
        "--crossvalidate", action="store_true", help="fit on halves and on all sources but one: minutes"
    )
    args = parser.parse_args()
    console = Console(highlight=False, width=170)
    files = sorted(args.data.glob("*.csv"))
    if not files:
        parser.error(f"there are no CSV files in {args.data}; give --data")
    validations = [validate(file) for file in files]
    args.out.mkdir(parents=True, exist_ok=True)
    table(validations, console)
    found = {
        "seed": SEED,
        "versions": {"everlearn": version("everlearn"), "python": platform.python_version()},
        "machine": platform.machine(),
        "constants": {
            "ramp": kernels.RAMP,
            "kernel_seconds": kernels.KERNEL_SECONDS,
            "grouped": compute.GROUPED,
            "scan": compute.SCAN_EFFICIENCY,
            "all_to_all": collectives.ALL_TO_ALL,
        },
        "files": [validation.as_json() for validation in validations],
    }
    if args.crossvalidate:
        found["crossvalidation"] = crossvalidate(args.data, console)
    (args.out / "plan.json").write_text(json.dumps(found, indent=1))
    plot(validations, args.out / "plan.png")
    console.print(f"seed {SEED}, python {platform.python_version()}; wrote {args.out / 'plan.json'} and plan.png")


if __name__ == "__main__":
    main()
