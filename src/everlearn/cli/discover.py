"""``everlearn discover``: which candidate to make next, and why."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from everlearn.cli import show
from everlearn.cli.serve import serve
from everlearn.discovery import (
    Campaign,
    CampaignConfig,
    Proposal,
    Target,
    Told,
    report_campaign,
    write_proposals,
)
from everlearn.discovery.reason import Reason
from everlearn.discovery.tables import read_table
from everlearn.errors import DataError, SettingError

Verb = typer.Option
_LIMIT = re.compile(r"^\s*(.+?)\s*(<=|>=)\s*([-+0-9.eE]+)\s*$")
_SHOWN = 10
_SETTLED = {
    "targets": "--target", "inputs": "--inputs", "column": "--column", "identity": "--name", "ignore": "--ignore",
    "limits": "--limit", "cost": "--cost", "structures": "--structures", "stability": "--stability", "seed": "--seed",
}  # fmt: skip


def discover(
    source: Annotated[Path, typer.Argument(help="table of candidates (CSV), or the directory of a campaign")],
    target: Annotated[list[str] | None, Verb(help="measured column; several give a Pareto front")] = None,
    minimise: Annotated[
        bool,
        Verb("--minimise", help="small values are wanted, of every target; for some of several: --target NAME:min"),
    ] = False,
    inputs: Annotated[
        str | None, Verb(help="smiles, composition or columns; by default what the columns' names say")
    ] = None,
    column: Annotated[str | None, Verb(help="column of the SMILES or formulas")] = None,
    name: Annotated[str | None, Verb(help="column of the candidates' names")] = None,
    ignore: Annotated[list[str] | None, Verb(help="a column that is no input; may be given several times")] = None,
    limit: Annotated[
        list[str] | None, Verb(help="COLUMN<=NUMBER or COLUMN>=NUMBER; may be given several times")
    ] = None,
    cost: Annotated[str | None, Verb(help="column of what an experiment costs")] = None,
    structures: Annotated[
        str | None, Verb(help="column of crystal structures (CIF, POSCAR or pymatgen JSON), of compositions")
    ] = None,
    stability: Annotated[
        float | None,
        Verb(help="with --structures: eV/atom above the hull, beyond which a crystal relaxed by CHGNet is kept aside"),
    ] = None,
    run: Annotated[Path | None, Verb(help="directory of the new campaign")] = None,
    results: Annotated[Path | None, Verb(help="what the laboratory found (CSV): learned before proposing")] = None,
    batch: Annotated[int | None, Verb(help="candidates of a batch; of a new campaign, of all its batches; 8")] = None,
    enumerate: Annotated[
        int | None,
        Verb(
            min=1, max=100_000, help="add as many neighbours of the best molecules or compositions to the pool, at most"
        ),
    ] = None,
    reasons: Annotated[bool, Verb(help="say why, measure the reasons and write the report")] = True,
    page: Annotated[
        bool, Verb("--serve", help="open the campaign's page, to accept, reject and enter results there")
    ] = False,
    seed: Annotated[int | None, Verb(help="of everything drawn; 0")] = None,
    json: Annotated[bool, Verb("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Propose what to measure next, and why: POOL.csv --target COLUMN --run RUN, then RUN --results RESULTS.csv."""
    if json and page:
        raise SettingError("--json prints the batch and --serve shows it on a page; leave one of them out")
    given = {
        "targets": [_target(text, minimise) for text in target] if target else None, "inputs": inputs,
        "column": column, "identity": name, "ignore": ignore or None,
        "limits": [_limit(text) for text in limit] if limit else None, "cost": cost, "structures": structures,
        "stability": stability, "seed": seed,
    }  # fmt: skip
    given = {setting: value for setting, value in given.items() if value is not None}
    if source.is_dir():
        if page and batch is not None:
            raise SettingError("--batch is for the batch that is printed; leave it out with --serve")
        campaign = _begun(source, given, minimise, run)
    else:
        campaign = _new(source, given, batch, run, results)
    with campaign:
        told = None if results is None else campaign.tell_file(results)
        if enumerate is not None:
            with show.console.status("listing neighbours of the best"):
                added = campaign.enumerate(enumerate)
            show.console.print(f"added {len(added)} candidates that the table does not list", soft_wrap=True)
        if not page:
            _propose(campaign, batch, reasons, told, json)
    if page:
        serve(campaign.path)


def _new(source: Path, given: dict[str, Any], batch: int | None, run: Path | None, results: Path | None) -> Campaign:
    """A new campaign; what it is to learn first is read before anything is written."""
    if not source.exists():
        raise DataError(f"there is no {source}; expected a table of candidates (CSV), or the directory of a campaign")
    if "targets" not in given or run is None:
        raise SettingError("a new campaign needs --target COLUMN and --run RUN; to go on with one give its directory")
    if results is not None:
        read_table(results)
    return Campaign.create(run, source, CampaignConfig.of(given | ({} if batch is None else {"batch": batch})))


def _begun(source: Path, given: dict[str, Any], minimise: bool, run: Path | None) -> Campaign:
    """The campaign of a directory; settings that it was not begun with are refused."""
    held = CampaignConfig.load(source / "campaign.toml")
    if run is not None:
        raise SettingError(f"--run is for a new campaign, and {source} is one that was begun; leave it out")
    if minimise and "targets" not in given:
        given["targets"] = [{"name": each.name, "minimise": True} for each in held.targets]
    asked = CampaignConfig.of(held.model_dump() | given) if given else held
    for setting, option in _SETTLED.items():
        begun, now = getattr(held, setting), getattr(asked, setting)
        if now != begun:
            raise SettingError(
                f"{option} is {_words(now)}, and {source} was begun with {_words(begun)}; leave {option} out to go on "
                "with it, or begin another campaign with --run"
            )
    return Campaign.open(source)


def _words(value: Any) -> str:
    """A setting as a person gives it."""
    if isinstance(value, tuple):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, Target):
        return f"{value.name}:{'min' if value.minimise else 'max'}"
    return "none given" if value is None else str(value)


def _propose(campaign: Campaign, batch: int | None, reasons: bool, told: Told | None, json: bool) -> None:
    with show.console.status("learning what is measured"):
        proposals = campaign.ask(batch)
    why: list[Reason] = []
    report = None
    if reasons:
        with show.console.status("explaining the batch, and measuring the reasons"):
            why = campaign.explain(proposals)
            report = report_campaign(campaign, proposals, why)
    table = write_proposals(campaign, proposals, why)
    if json:
        show.print_json(_result(campaign, proposals, why, told, report, table))
    else:
        _print(campaign, proposals, why, told, report, table)


def _print(
    campaign: Campaign, proposals: list[Proposal], why: list[Reason], told: Told | None, page: Path | None, table: Path
) -> None:
    say = show.out.print
    aside = campaign.pool.aside if told is None else told.aside
    for each in aside[:_SHOWN]:
        say(_aside(str(each)), soft_wrap=True)
    if len(aside) > _SHOWN:
        say(_aside(f"{len(aside) - _SHOWN} more; the report lists all"))
    if told is not None:
        again = "; this file was told already, nothing changed" if told.again else ""
        say(f"learned {told.learned} results, {told.repeats} of them repeats{again}")
    stabilities = campaign.stabilities
    for candidate, reason in campaign.unstable.items():
        say(_aside(f"{candidate}: {reason}"), soft_wrap=True)
    for note in campaign.search.notes():
        show.warn(note)
    if not proposals:
        say("nothing left to propose: every candidate is tried or outside the limits")
    names = [each.name for each in campaign.config.targets]
    if proposals:
        offered = f"next {len(proposals)} of {len(campaign.pool.candidates)} candidates"
        say(Text.assemble((offered, "bold"), " (80 % intervals)"))
    for i, proposal in enumerate(proposals):
        shown = [
            f"{name} {o.value:.4g} ({o.low:.4g} … {o.high:.4g})" for name in names if (o := proposal.outlook.get(name))
        ]
        shown += [] if proposal.chance is None else [f"beats the best: {proposal.chance:.0%}"]
        shown += [stabilities[proposal.candidate].words()] if proposal.candidate in stabilities else []
        named = "" if proposal.text == proposal.candidate else f": {proposal.text}"
        say(Text.assemble((f"{i + 1}. ", "bold"), proposal.candidate + named), soft_wrap=True)
        shown += ["chosen for what it tells of the others"] if proposal.why == "learn" else []
        say(Padding(", ".join(shown) or "unlike those measured", (0, 0, 0, 3)))
        if why:
            say(Padding(why[i].words, (0, 0, 0, 3)), style="dim")
    say(f"batch: {table.absolute()}", soft_wrap=True)
    if page:
        say(f"report: {page.absolute()}", soft_wrap=True)
    say(f"next: measure, then everlearn discover {campaign.path} --results RESULTS.csv", soft_wrap=True)


def _aside(what: str) -> Text:
    return Text.assemble(("kept aside ", "yellow"), what)


def _result(
    campaign: Campaign, proposals: list[Proposal], why: list[Reason], told: Told | None, page: Path | None, table: Path
) -> dict[str, Any]:
    stable = campaign.stabilities
    return {
        "run": str(campaign.path),
        "candidates": len(campaign.pool.candidates),
        "measured": len(campaign.search.tried),
        "told": None if told is None else {"learned": told.learned, "repeats": told.repeats, "again": told.again},
        "aside": [{"file": file, "row": each.row, "reason": each.reason} for file, each in campaign.aside],
        "unstable": campaign.unstable,
        "notes": campaign.search.notes(),
        "proposals": [
            {"candidate": each.candidate, "text": each.text, "chance": each.chance, "why": each.why}
            | {"expected": {k: {"value": o.value, "low": o.low, "high": o.high} for k, o in each.outlook.items()}}
            | ({"reason": why[i].summary()} if why else {})
            | ({"stability": asdict(stable[each.candidate])} if each.candidate in stable else {})
            for i, each in enumerate(proposals)
        ],
        "batch": str(table),
        "report": None if page is None else str(page),
        "versions": show.versions(),
    }


def _target(text: str, minimise: bool) -> dict[str, Any]:
    name, colon, way = text.rpartition(":")
    if colon and way in ("min", "max"):
        return {"name": name, "minimise": way == "min"}
    return {"name": text, "minimise": minimise}


def _limit(text: str) -> dict[str, Any]:
    found = _LIMIT.match(text)
    try:
        return {"column": found[1], "sign": found[2], "bound": float(found[3])}  # type: ignore[index]
    except (TypeError, ValueError):
        raise SettingError(f"--limit {text!r}; expected COLUMN<=NUMBER or COLUMN>=NUMBER") from None
