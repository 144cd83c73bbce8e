"""``everlearn plan``: what a training run takes on a cluster, or how well the planner predicts published runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table
from typer import Option

from everlearn.cli import show
from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import Cluster, load_cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.cost import Cost, cost_of
from everlearn.scaling.plan.explain import CAUSES, batch, explain, shares
from everlearn.scaling.plan.export import as_json, as_pretrain
from everlearn.scaling.plan.layout import PRECISIONS
from everlearn.scaling.plan.plan import Plan, predict
from everlearn.scaling.plan.request import USUAL_BATCH, Request, amount, fitting_batch, read_request
from everlearn.scaling.plan.search import search
from everlearn.scaling.plan.stack import STACKS
from everlearn.scaling.plan.validate import UNITS, Validation, validate

_SHORTEST, _LONGEST = 0.001, 1e6  # days


def plan(
    config: Annotated[
        str | None, typer.Argument(help="preset, or TOML file with [model]; with [layout] it is kept")
    ] = None,
    cluster: Annotated[str | None, Option(help="DEVICE:NUMBER or FILE.toml:NUMBER, such as h100:1024")] = None,
    tokens: Annotated[
        str | None, Option(help="of the run, such as 13T; by default 20 for each active parameter")
    ] = None,
    budget: Annotated[str | None, Option(help="money for the run in USD, such as 5M")] = None,
    days: Annotated[float | None, Option(help=f"days for the run, at most {_LONGEST:,.0f}")] = None,
    batch_: Annotated[
        str | None,
        Option(
            "--batch", help="tokens of a step, such as 4M; by default the configuration's, else 4M; adapted to divide"
        ),
    ] = None,
    precision: Annotated[str | None, Option(help=f"one of {', '.join(PRECISIONS)}; by default bf16")] = None,
    stack: Annotated[str, Option(help=f"software generation: {', '.join(STACKS)}")] = "modern",
    top: Annotated[int, Option(help="layouts shown")] = 10,
    out: Annotated[Path | None, Option(help="write the best layout as a configuration for everlearn pretrain")] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="trace the best layout with the real code on simulated ranks, and compare")
    ] = False,
    validate_: Annotated[Path | None, Option("--validate", help="predict every row of a CSV of published runs")] = None,
    json: Annotated[bool, Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Plan the training of CONFIG on a cluster: memory, time, cost and failures of each layout, the best explained."""
    if validate_ is not None:
        if config is not None or cluster is not None:
            raise SettingError("--validate predicts the rows of its file; leave CONFIG and --cluster out")
        _validated(validate(validate_), json)
        return
    if config is None or cluster is None:
        raise SettingError("expected CONFIG and --cluster DEVICE:NUMBER, or --validate FILE.csv")
    request, machines = read_request(config), load_cluster(cluster)
    if stack not in STACKS:
        raise SettingError(f"stack is {stack!r}; expected one of {', '.join(STACKS)}")
    if precision is not None and precision not in PRECISIONS:
        raise SettingError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if top < 1:
        raise SettingError(f"top is {top}; expected 1 or more layouts")
    if days is not None and not _SHORTEST <= days <= _LONGEST:
        raise SettingError(f"days is {days:g}; expected {_SHORTEST:g} to {_LONGEST:,.0f} days")
    asked = amount(tokens, "tokens") if tokens is not None else 20.0 * request.shape.active_parameters
    money = amount(budget, "budget") if budget is not None else None
    usual = float(request.global_batch * request.shape.seq_len or USUAL_BATCH)
    per_step = usual if batch_ is None else amount(batch_, "batch")
    sequences = _sequences(request, machines, per_step, exact=batch_ is None and request.global_batch > 0)
    plans = _plans(request, machines, sequences, stack, precision, json)
    cost = cost_of(plans[0], asked)
    verdicts = judge(cost, machines.devices, money, days)
    if out is not None:
        _write(out, as_pretrain(plans[0], asked, request.preset))
    if json:
        found = _json(request.shape, machines, plans[:top], plans, asked, per_step, verdicts, out)
        show.print_json(found | ({"dry_run": _traced(plans[0], quiet=True)} if dry_run else {}))
        return
    _table(request.shape, machines, plans, top, asked)
    _explained(plans, cost, per_step, verdicts, out)
    if dry_run:
        _traced(plans[0], quiet=False)


def _sequences(request: Request, cluster: Cluster, tokens: float, exact: bool) -> int:
    """Sequences of a step: those of the configuration as they are, or a number near so many tokens that divides."""
    if exact:
        return request.global_batch
    if request.layout:
        told = request.chosen(cluster.devices, 1)
        unit = told.dp * told.micro_batch
        return max(1, round(tokens / request.shape.seq_len / unit)) * unit
    return fitting_batch(tokens, request.shape, cluster.devices)


def _plans(
    request: Request, cluster: Cluster, sequences: int, stack: str, precision: str | None, quiet: bool
) -> list[Plan]:
    """The one plan of a chosen layout, else all that a search finds, from fast to slow."""
    if request.layout:
        chosen = predict(request.shape, request.chosen(cluster.devices, sequences, precision), cluster, STACKS[stack])
        if not chosen.fits:
            found = f"{chosen.memory.total / 2**30:.0f} GiB of {cluster.device.memory_gib:g}"
            raise SettingError(
                f"layout {chosen.layout.words} does not fit: it needs {found} GiB a device; "
                "raise tp, pp, zero or recompute, or leave [layout] out to search"
            )
        return [chosen]
    with Progress(console=show.console, transient=True, disable=quiet) as progress:
        bar = progress.add_task("searching layouts", total=None)
        return search(
            request.shape,
            cluster,
            sequences,
            STACKS[stack],
            precision or "bf16",
            lambda done, total: progress.update(bar, completed=done, total=total),
        )


def judge(cost: Cost, devices: int, budget: float | None, days: float | None) -> list[str]:
    """Whether the run keeps within money and time, and what would."""
    verdicts = []
    if days is not None:
        if cost.days <= days:
            verdicts.append(f"within {days:g} days: {cost.days:.1f}")
        else:
            need = devices * cost.days / days
            verdicts.append(
                f"over {days:g} days: {cost.days:.1f}; about {need:.0f} devices, or {days / cost.days:.0%} of tokens"
            )
    if budget is not None:
        word = "within" if cost.usd <= budget else "over"
        rest = "" if cost.usd <= budget else f"; the money lasts for {cost.tokens * budget / cost.usd:.3g} tokens"
        verdicts.append(f"{word} a budget of ${budget:,.0f}: ${cost.usd:,.0f}{rest}")
    return verdicts


def _json(
    shape: ModelShape,
    cluster: Cluster,
    shown: list[Plan],
    plans: list[Plan],
    tokens: float,
    per_step: float,
    verdicts: list[str],
    out: Path | None,
) -> dict[str, Any]:
    model = asdict(shape) | {"parameters": shape.parameters, "active_parameters": shape.active_parameters}
    return {
        "model": model,
        "cluster": asdict(cluster),
        "tokens": tokens,
        "batch": batch(plans[0], per_step),
        "layouts": len(plans),
        "plans": [as_json(plan, cost_of(plan, tokens)) for plan in shown],
        "explanation": explain(plans[0], plans),
        "verdicts": verdicts,
        "pretrain_configuration": None if out is None else str(out),
    }


def _table(shape: ModelShape, cluster: Cluster, plans: list[Plan], top: int, tokens: float) -> None:
    title = (
        f"{shape.name}: {shape.parameters / 1e9:.1f} B parameters ({shape.active_parameters / 1e9:.1f} B active), "
        f"{tokens / 1e12:.3g} T tokens on {cluster.devices} × {cluster.device.name}; {len(plans)} layouts fit"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("layout", no_wrap=True)
    for name in ("step s", "tok/s/dev", "MFU %", "HFU %", "GiB", "days", "M$", "MWh", "batch"):
        table.add_column(name, justify="right")
    for each in plans[:top]:
        cost = cost_of(each, tokens)
        figures = (
            f"{each.step_seconds:.3g}",
            f"{each.tokens_per_second_per_device:.4g}",
            f"{100 * each.mfu:.1f}",
            f"{100 * each.hfu:.1f}",
            f"{each.memory.total / 2**30:.0f}",
            f"{cost.days:.1f}",
            f"{cost.usd / 1e6:.3g}" if cost.usd < 1e8 else f"{cost.usd / 1e6:.0f}",
            f"{cost.megawatt_hours:,.0f}",
            f"{each.layout.global_batch}",
        )
        table.add_row(each.layout.words, *figures)
    show.out.print(table)


def _explained(plans: list[Plan], cost: Cost, per_step: float, verdicts: list[str], out: Path | None) -> None:
    best = plans[0]
    show.out.print(f"best: {best.layout.words}, {cost.days:.1f} days, ${cost.usd:,.0f}", soft_wrap=True)
    for line in [batch(best, per_step), *explain(best, plans), *verdicts]:
        show.out.print(f"  {line}", soft_wrap=True)
    parts = ", ".join(f"{CAUSES[name]} {share:.0%}" for name, share in shares(best))
    show.out.print(f"  a step: {parts}", soft_wrap=True)
    if out is not None:
        show.out.print(
            f"wrote {out}; next: name your data in it, then torchrun … everlearn pretrain {out}", soft_wrap=True
        )


def _traced(best: Plan, quiet: bool) -> dict[str, Any]:
    """Trace the best layout; the comparison as a table, and as JSON."""
    from everlearn.scaling.plan_trace import trace_plan

    with show.console.status("tracing one rank's step") if not quiet else nullcontext():
        found = trace_plan(best)
    traced = found.traced
    known = {"ranks": traced.world, "micro_batches": found.micro_batches, "seconds": traced.seconds}
    known |= {"peak_gib": found.peak_gib, "held_gib": traced.held_bytes / 2**30, "planned_over_counted": found.ratio}
    if not quiet:
        title = (
            f"collectives of rank 0 of {traced.world} in {found.micro_batches} micro-batches, counted in the real code "
            f"({traced.seconds:.0f} s, {found.peak_gib:.1f} GiB of this machine)"
        )
        table = Table(title=title, title_justify="left")
        for name in ("kind", "along"):
            table.add_column(name)
        for name in ("calls planned", "counted", "GB planned", "counted", "planned / counted"):
            table.add_column(name, justify="right")
        for row in found.rows:
            ratio = f"{row.planned_bytes / row.bytes:.3f}" if row.bytes else "–"
            figures = (f"{row.planned_bytes / 1e9:.4g}", f"{row.bytes / 1e9:.4g}", ratio)
            table.add_row(row.kind, row.dimension, str(row.planned_calls), str(row.calls), *figures)
        show.out.print(table)
    return known | {"rows": [asdict(row) for row in found.rows]}


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"cannot write {out}: {error.strerror}; give another --out") from None


def _validated(found: Validation, json: bool) -> None:
    if json:
        show.print_json(found.as_json())
        return
    table = Table(title=f"{found.file}: predicted and published ({found.format})", title_justify="left")
    for name in ("row", "model", "layout", "figure"):
        table.add_column(name)
    for name in ("predicted", "published", "error %"):
        table.add_column(name, justify="right")
    for c in found.comparisons:
        figure = f"{c.metric} {UNITS[c.metric]}"
        table.add_row(
            c.row, c.model, c.layout, figure, f"{c.predicted:.4g}", f"{c.published:.4g}", f"{100 * c.error:+.1f}"
        )
    show.out.print(table)
    for row in found.unmeasured:
        seconds, tokens = row["predicted"]["seconds"], row["predicted"]["tokens_per_s"]
        told = f"{seconds:.3g} s a step, {tokens:.4g} tokens/s a device predicted"
        show.out.print(f"row {row['row']} measured nothing to compare with: {told} ({row['layout']})", soft_wrap=True)
    for refused in found.refused:
        show.out.print(f"row {refused.name} not predicted: {refused.reason}", soft_wrap=True)
    for metric, mean in found.means.items():
        show.out.print(
            f"{metric}: mean absolute error {mean['mean_abs_error']:.2%}, "
            f"bias {mean['bias']:+.2%}, {mean['rows']} figures"
        )
