"""``everlearn pretrain``: train a language model, alone, in several processes, or under torchrun."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.errors import RunError, SettingError
from everlearn.places import check_place
from everlearn.scaling.processes import MOST, check_number

Verb = typer.Option


def pretrain(
    config: Annotated[Path | None, typer.Argument(help="TOML file with [model], [data], [train] and more")] = None,
    run: Annotated[
        Path | None,
        Verb(
            "--run",
            "--into",
            help="directory of the run, by default runs/CONFIG; one with checkpoints goes on (--into under torchrun)",
        ),
    ] = None,
    resume: Annotated[Path | None, Verb(help="go on with this run; --set may change layout and steps")] = None,
    processes: Annotated[
        int, Verb(min=1, max=MOST, help=f"processes to start on this machine, at most {MOST}; under torchrun leave it")
    ] = 1,
    groups: Annotated[
        int,
        Verb(
            min=1,
            max=MOST,
            help="replica groups of so many processes each, at most "
            f"{MOST} in all: one that dies heals from the others (torchft)",
        ),
    ] = 1,
    set_: Annotated[
        list[str] | None, Verb("--set", help="a setting, TABLE.NAME=VALUE in TOML; may be given several times")
    ] = None,
    prompt: Annotated[str | None, Verb(help="at the end, go on with this text")] = None,
    length: Annotated[int, Verb(min=1, max=1_000_000, help="tokens to add to the prompt, at most 1,000,000")] = 100,
    export: Annotated[Path | None, Verb(help="at the end, write the weights as safetensors into this folder")] = None,
    json: Annotated[bool, Verb("--json", help="end with one JSON object on standard output")] = False,
) -> None:
    """Train the language model of CONFIG: everlearn pretrain CONFIG.toml, or torchrun … -m everlearn.cli pretrain."""
    if (resume is None) == (config is None) or (resume is not None and run is not None):
        raise SettingError("expected either CONFIG, for a run of it, or --resume RUN to go on with one")
    folder = resume or run or Path("runs") / config.stem  # type: ignore[union-attr]
    _check(folder, resume is not None, prompt, export, processes * groups)
    started = "WORLD_SIZE" in os.environ
    if groups > 1 and not started and "REPLICA_GROUP_ID" not in os.environ:
        _groups(config or folder / "config.toml", set_ or [], groups)
        return
    if processes > 1 and not started:
        from everlearn.scaling.processes import launch

        launch(["-m", "everlearn.cli", *sys.argv[1:]], processes)
        return
    settings = _with(config or folder / "config.toml", set_ or [])
    from everlearn.scaling import processes as process_group

    with process_group.together(folder) as (rank, world):
        seconds = settings.train.timeout
        hangs = lambda text: process_group.fail(RunError(text), rank, folder)  # noqa: E731
        watchdog = process_group.Watchdog(seconds, hangs) if world > 1 else None
        _train(settings, folder, rank, prompt, length, export, json, watchdog.beat if watchdog else lambda: None)
        if watchdog:
            watchdog.stop()


def _check(folder: Path, resumed: bool, prompt: str | None, export: Path | None, processes: int) -> None:
    """Refuse what would else be found out after days."""
    from everlearn.scaling.pretrain import check_folder

    check_folder(folder)
    if resumed and not (folder / "config.toml").exists():
        found = "it has no config.toml" if folder.is_dir() else "there is no such directory"
        raise RunError(f"{folder} is not a run: {found}")
    check_number(processes)
    if prompt == "":
        raise SettingError("--prompt is empty; give a text to go on from, or leave it out")
    if export is not None:
        if export.absolute() == folder.absolute():
            raise SettingError(f"--export {export} is the run's own directory; give another")
        check_place(export)


def _train(
    settings: Any,
    folder: Path,
    rank: int,
    prompt: str | None,
    length: int,
    export: Path | None,
    json: bool,
    beat: Callable[[], None],
) -> None:
    from everlearn.cli import show
    from everlearn.scaling.pretrain import finished, generate
    from everlearn.scaling.pretrain import pretrain as train
    from everlearn.scaling.replicas import group

    if export is not None:
        from everlearn.models.language_hf import class_of

        class_of(settings.language(vocab=1))  # better now than after days
    begun = time.perf_counter()
    silent = rank > 0 or group() not in (None, 0)
    with progress(settings.train.steps, quiet=json or silent) as moment:
        loss = train(settings, folder, moment, beat)
    if silent:
        return
    result: dict[str, Any] = {"loss": loss, "steps": settings.train.steps, "run": str(folder)}
    result["seconds"] = round(time.perf_counter() - begun, 2)
    if prompt is not None or export is not None:
        model, tokenizer, _ = finished(folder)
        if prompt is not None:
            result["text"] = tokenizer.decode(generate(model, tokenizer.encode(prompt), length))
        if export is not None:
            from everlearn.models.language_hf import save

            try:
                save(model, export)
                tokenizer.save(export / "tokenizer.json")
            except OSError as error:
                raise RunError(f"cannot write to {export}: {error.strerror or error}; give another --export") from error
            result["export"] = str(export)
    if json:
        show.print_json(result)
        return
    show.out.print(f"loss {loss:.4f} after {settings.train.steps} steps; {folder}")
    if "text" in result:
        print(result["text"])


def _groups(file: Path, changes: list[str], groups: int) -> None:
    """Start replica groups, once the settings are known to be sound."""
    from everlearn.scaling.groups import run_groups

    settings = _with(file, changes)
    if settings.layout.pp > 1:
        raise SettingError(f"--groups {groups} with pp {settings.layout.pp}: groups have no pipeline; set pp to 1")
    unit = max(1, settings.layout.dp) * settings.layout.micro_batch
    if settings.train.global_batch // unit < groups:
        raise SettingError(
            f"{settings.train.global_batch} sequences of a step, {unit} at a time, do not give {groups} groups one "
            "part each; raise train.global_batch"
        )
    run_groups(
        ["-m", "everlearn.cli", *sys.argv[1:]], groups, lambda text: print(f"everlearn: {text}", file=sys.stderr)
    )


@contextmanager
def progress(steps: int, quiet: bool) -> Iterator[Any]:
    """A live line with loss, learning rate, tokens/s, MFU, memory and time left, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from everlearn.cli import show

    columns = (
        TextColumn("pretraining"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[news]}"),
        TimeRemainingColumn(),
    )
    preparing = show.console.status("preparing texts and model")

    def moment(m: Any) -> None:
        preparing.stop()
        shown.start()  # with the first step
        mfu = "" if m.mfu is None else f"  MFU {m.mfu:.1%}"
        valid = "" if m.valid_loss is None else f"  valid {m.valid_loss:.3f}"
        news = f"loss {m.loss:.3f}{valid}  norm {m.norm:.2f}  lr {m.lr:.1e}  {m.tokens_per_second:,.0f} tokens/s{mfu}"
        shown.update(bar, completed=m.step, news=f"{news}  {m.memory_gib:.1f} GiB")

    with show.live(*columns, quiet=quiet) as shown:
        bar = shown.add_task("pretraining", total=steps, news="")
        try:
            if not quiet:
                preparing.start()
            yield moment
        finally:
            preparing.stop()


def _with(file: Path, changes: list[str]) -> Any:
    """The settings of a file with changes: ``train.steps=200`` and the like."""
    import tomllib

    from everlearn.scaling.settings import Settings

    settings = Settings.load(file).model_dump(exclude_none=True)
    for change in changes:
        name, equals, text = change.partition("=")
        *tables, last = name.split(".")
        where = settings
        for table in tables:
            where = where.setdefault(table, {}) if isinstance(where, dict) else None
        if not equals or not isinstance(where, dict):
            raise SettingError(f"--set {change!r}; expected TABLE.NAME=VALUE, such as train.steps=200")
        try:
            where[last] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            where[last] = text
    return Settings.of(settings).absolute()
