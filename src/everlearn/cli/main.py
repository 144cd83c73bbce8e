"""The command ``everlearn``: one verb a module, imported when it is called.

Exit codes: 0 done, 1 a fault of Everlearn itself, 2 bad input or settings, 130 interrupted, 141 nobody reads on.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from everlearn.errors import EverlearnError

INTERRUPTED, UNREAD = 130, 141

VERBS = {
    "demo": ("demo:demo", "Learn digits class by class, three ways; then explain six predictions."),
    "learn": ("learn:learn", "Learn SOURCE in one pass with a bounded memory."),
    "methods": ("methods:methods", "The methods that learn; of one, its paper and its settings."),
    "evaluate": ("evaluate:evaluate", "Accuracy of RUN on SOURCE, over all and by class."),
    "predict": ("predict:predict", "Classes and probabilities of FILES by RUN."),
    "explain": ("explain:explain", "Explain FILES: a heat map, remembered cases for and against, words."),
    "audit": ("audit:audit", "Rank what RUN remembers: likely wrong labels, near-duplicates, help and harm."),
    "report": ("report:report", "Write RUN/report.html: accuracy over time, memory, predictions explained."),
    "export": ("export:export", "Write RUN's model as ONNX or torch.export, preprocessing inside."),
    "serve": ("serve:serve", "Serve RUN: look at cases, see why, and correct; of a campaign: enter results."),
    "token": ("serve:token", "Make a token for RUN's server."),
    "forget": ("forget:forget", "Forget a sample or a patient wherever RUN holds it."),
    "rollback": ("forget:rollback", "Serve an earlier VERSION of RUN again."),
    "audit-log": ("forget:audit_log", "Check the chain of RUN's audit log."),
    "discover": ("discover:discover", "Propose what to measure next, and why."),
    "pretrain": ("pretrain:pretrain", "Train the language model of CONFIG, on one process or a cluster."),
    "parity": ("parity:parity", "Compare layouts of some processes with one process, number by number."),
    "plan": ("plan:plan", "Plan the training of CONFIG on a cluster: memory, time, cost, failures."),
    "bench": ("bench:bench", "Measure: published tables run anew, on standard sets or your own data."),
}
"""By its name: where a verb is, below this package, and what the list of verbs says of it."""

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Typer's own, or click's, by version


class Verbs(TyperGroup):
    """Lists all verbs and imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The verb that the first word names, with all its options."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else loaded(name), rest


def loaded(name: str) -> Any:
    """The command of this verb, imported."""
    module, function = VERBS[name][0].split(":")
    verb = getattr(importlib.import_module(f"everlearn.cli.{module}"), function)
    if not isinstance(verb, typer.Typer):
        verb, alone = typer.Typer(add_completion=False), verb
        verb.command(name)(alone)
    return typer.main.get_command(verb)


app = typer.Typer(
    name="everlearn",
    help="AI that keeps learning and says why.",
    epilog="Exit codes: 0 done, 1 a fault of Everlearn itself, 2 bad input or settings, 130 interrupted.",
    cls=Verbs,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, (_, _line) in VERBS.items():
    app.command(_name, help=_line)(lambda: None)


def run() -> None:
    """Entry point: errors become one line on standard error."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="everlearn", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except EverlearnError as error:
        _fail(str(error), 2)
    except _UsageError as error:
        _fail(_usage(error), 2)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # what Typer makes of one
            raise
        code = UNREAD
    except BrokenPipeError:
        code = UNREAD
    except Exception as error:
        if os.environ.get("EVERLEARN_DEBUG"):
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        _fail(f"unexpected {type(error).__name__}: {first}; set EVERLEARN_DEBUG=1 to see where", 1)
    if code == INTERRUPTED:
        _fail("interrupted; a run keeps what it had learned up to its last checkpoint", INTERRUPTED)
    if code == UNREAD:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> str:
    """What is wrong with the words of the command, and where they are explained."""
    sentences = re.split(r"[.?] ", error.format_message().strip().rstrip(".?"))
    said = "; ".join(sentence[:1].lower() + sentence[1:] for sentence in sentences)
    return f"{said}; see {error.ctx.command_path if error.ctx is not None else 'everlearn'} --help"


def _fail(message: str, code: int) -> None:
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    if rank == "0" or code == 1:  # processes that learn together all come to the same refusal; a fault may be one's own
        who = "everlearn" if rank == "0" else f"everlearn, process {rank}"
        print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
