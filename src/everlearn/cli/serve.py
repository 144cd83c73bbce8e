"""``everlearn serve`` and ``everlearn token``: the page and the API of a run."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everlearn.cli import show
from everlearn.errors import RunError, SettingError
from everlearn.runs import Config, Journal
from everlearn.runs.intact import open_journal
from everlearn.runs.lock import check_directory

if TYPE_CHECKING:
    from fastapi import FastAPI

    from everlearn.server import Settings


def serve(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    cases: Annotated[
        str | None,
        typer.Option(help="pictures to work through: any source, or a folder of pictures; by default held-out samples"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; beyond this machine a token is asked for")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8420,
    learns: Annotated[
        bool, typer.Option("--learns/--replica", help="a replica predicts and takes verdicts; another server learns")
    ] = True,
    rate: Annotated[
        int | None,
        typer.Option(min=0, help="requests a minute and client, 0 for no limit; by default 600 beyond this machine"),
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, max=1024, help="largest request, in MiB")] = 64,
    margin: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="how much worse than the one in service a new version may be on cases kept for checking"
        ),
    ] = 0.05,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="EVERLEARN_DATABASE",
            help="PostgreSQL to keep the journal in, postgresql://HOST/NAME; an empty RUN joins the run that is there",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="EVERLEARN_STORE",
            help="folder or object store for versions, so that other machines can predict: s3://…, file://…",
        ),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM)")] = None,
    key: Annotated[Path | None, typer.Option(help="TLS key (PEM)")] = None,
) -> None:
    """Serve RUN: look at cases, see why, and correct; of a campaign: accept and reject proposals, enter results."""
    try:
        import uvicorn

        from everlearn.server import Settings
        from everlearn.server.settings import LOOPBACK
        from everlearn.server.sharing import share
    except ImportError as error:
        raise SettingError(f"serving needs {error.name}; install it with: pip install 'everlearn[serve]'") from None
    if (run / "config.toml").exists():
        if Config.load(run / "config.toml").data.of_texts:
            raise SettingError(f"{run} is of texts; the page shows pictures: use everlearn explain, report and audit")
    elif database is None:
        _check_kind(run)
    _check_tls(certificate, key)
    local = host in LOOPBACK
    settings = Settings(
        run, cases, host, port, learns, rate if rate is not None else (0 if local else 600), max_mb * 2**20, margin
    )
    _free(host, port)
    share(run, database, store)
    app = _app_of(settings)
    shown = f"[{host}]" if ":" in host else host
    show.console.print(f"open http{'s' if certificate else ''}://{shown}:{port} (end with Ctrl-C)", soft_wrap=True)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=30,
        limit_concurrency=200,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def token(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    name: Annotated[str, typer.Option(help="whose it is; verdicts are signed with it")],
    role: Annotated[str, typer.Option(help="viewer, reviewer or admin")] = "reviewer",
    revoke: Annotated[bool, typer.Option("--revoke", help="take back all tokens of this name instead")] = False,
) -> None:
    """Make a token for RUN's server and print it; it cannot be shown again."""
    from everlearn.server.security import Tokens

    journal = _journal_of(run)
    try:
        tokens = Tokens(journal.db)
        if not revoke:
            print(tokens.create(name, role))
        elif not (gone := tokens.revoke(name)):
            raise SettingError(f"{name!r} has no token of this run")
        else:
            show.out.print(f"{gone} tokens of {name} taken back")
    finally:
        journal.close()


def _journal_of(run: Path) -> Journal:
    """The journal of a run or a campaign."""
    if (run / "config.toml").exists():
        return open_journal(run)
    _check_kind(run)
    return Journal(run / "journal.sqlite")


def _check_kind(run: Path) -> None:
    """Refuse what is neither a run nor a campaign."""
    if (run / "config.toml").exists() or (run / "campaign.toml").exists():
        return
    check_directory(run)
    raise RunError(f"{run} is not a run: it has neither config.toml nor campaign.toml")


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    """Refuse a certificate that cannot be used, and a key without one: without a certificate nothing is encrypted."""
    if certificate is None:
        if key is not None:
            raise SettingError("--key is given without --certificate; expected both, or neither")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        said = "they are not in PEM, or not a pair" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingError(
            f"cannot use the certificate {certificate}{f' with the key {key}' if key else ''}: {said}; expected PEM "
            "files of a certificate and its key"
        ) from error


def _app_of(settings: Settings) -> FastAPI:
    """The application for the kind of run."""
    if (settings.run / "campaign.toml").exists():
        from everlearn.server.discovery_app import create_discovery_app

        return create_discovery_app(settings)
    from everlearn.server import create_app

    return create_app(settings)


def _free(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise SettingError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port"
        ) from error
