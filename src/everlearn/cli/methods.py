"""``everlearn methods``: what there is to learn by, and what each method can be set to."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from everlearn.cli import show
from everlearn.errors import SettingError
from everlearn.learners import METHODS, Learner
from everlearn.learners.options import Options
from everlearn.learners.settings import settings_of, shared_settings


def methods(
    name: Annotated[str | None, typer.Argument(help="one of them; all where it is left out")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """The methods of ``everlearn learn --method``; of one, its paper and what ``--set NAME=VALUE`` can set."""
    if name is not None and name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingError(f"no method is called {name!r}; {hint}there are {', '.join(METHODS)}")
    chosen = METHODS if name is None else {name: METHODS[name]}
    if json:
        show.print_json({each: about(method) for each, method in chosen.items()})
        return
    if name is None:
        table = Table("method", "", box=None, pad_edge=False, header_style="dim")
        for each, method in chosen.items():
            table.add_row(Text(each, "bold"), about(method)["summary"])
        show.out.print(table)
        show.out.print("what one can be set to: everlearn methods NAME")
        return
    known = about(METHODS[name])
    show.out.print(f"{known['paper']}\n\n{known['rule']}\n")
    table = Table("--set", "by default", "", box=None, pad_edge=False, header_style="dim")
    for part in ("settings", "options"):
        for each, value in known[part].items():
            table.add_row(each, str(value), "" if part == "settings" else _of_option(each))
    show.out.print(table)
    borders = "needs task borders" if known["needs_tasks"] else "needs no task borders"
    show.out.print(f"{borders}; {'one process only' if known['alone'] else 'learns in several processes'}")


def about(method: type[Learner]) -> dict[str, Any]:
    """A method's paper, rule, settings and options with their defaults.

    Examples
    --------
    >>> known = about(METHODS["mir"])
    >>> known["settings"], known["options"]["iterations"], known["needs_tasks"]
    ({'candidates': 50}, 1, False)
    """
    module = inspect.getdoc(sys.modules[method.__module__]) or ""
    rule = inspect.getdoc(method) or ""
    settings = {name: each.default for name, each in settings_of(method).items()}
    defaults = {name: each.default for name, each in shared_settings().items()}
    alone_in_file = sum(each.__module__ == method.__module__ for each in METHODS.values()) == 1
    return {
        "summary": (module if alone_in_file else rule).splitlines()[0],
        "paper": module,
        "rule": rule.split("\nExamples\n")[0].strip(),
        "settings": settings,
        "options": {each: value for each, value in defaults.items() if each in method.takes and each not in settings},
        "needs_tasks": method.needs_tasks,
        "alone": method.alone,
    }


def _of_option(name: str) -> str:
    """What `Options` says of one of its parameters."""
    lines = (inspect.getdoc(Options) or "").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{name} : ")), None)
    if start is None:
        return ""
    told = []
    for line in lines[start + 1 :]:
        if not line.startswith("    "):
            break
        told.append(line.strip())
    return " ".join(told)
