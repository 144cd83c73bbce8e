"""The command ``everlearn``: one verb a module.

Exit codes: 0 done, 1 a fault of Everlearn itself, 2 bad input or settings, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from everlearn.cli.audit import audit
from everlearn.cli.bench import bench
from everlearn.cli.demo import demo
from everlearn.cli.discover import discover
from everlearn.cli.evaluate import evaluate
from everlearn.cli.explain import explain
from everlearn.cli.export import export
from everlearn.cli.forget import audit_log, forget, rollback
from everlearn.cli.learn import learn
from everlearn.cli.methods import methods
from everlearn.cli.parity import parity
from everlearn.cli.plan import plan
from everlearn.cli.predict import predict
from everlearn.cli.pretrain import pretrain
from everlearn.cli.report import report
from everlearn.cli.serve import serve, token
from everlearn.errors import EverlearnError

INTERRUPTED = 130

app = typer.Typer(
    name="everlearn",
    help="AI that keeps learning and says why.",
    epilog="Exit codes: 0 done, 1 a fault of Everlearn itself, 2 bad input or settings, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    demo,
    learn,
    methods,
    evaluate,
    predict,
    explain,
    audit,
    report,
    pretrain,
    parity,
    plan,
    serve,
    token,
    forget,
):
    app.command()(verb)
app.command()(rollback)
app.command("audit-log")(audit_log)
app.command()(discover)
app.command()(export)
app.add_typer(bench)


def run() -> None:
    """Entry point: errors become one line on standard error."""
    try:
        app(standalone_mode=True)
    except EverlearnError as error:
        _fail(str(error), 2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
            _fail("interrupted; a run keeps what it had learned up to its last checkpoint", INTERRUPTED)
        raise
    except Exception as error:
        if os.environ.get("EVERLEARN_DEBUG"):
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        _fail(f"unexpected {type(error).__name__}: {first}; set EVERLEARN_DEBUG=1 to see where", 1)


def _fail(message: str, code: int) -> None:
    if os.environ.get("RANK", "0") == "0":  # of processes that learn together all come to the same refusal
        print(f"everlearn: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
