"""A pretraining run from its settings: tokens made, trained, exported, text generated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from everlearn.errors import DataError, RunError, SettingError
from everlearn.kinds import kind_of
from everlearn.models.language import Language
from everlearn.scaling.checkpoint import load_model, steps
from everlearn.scaling.data import is_text
from everlearn.scaling.replay_values import value_memory
from everlearn.scaling.replicas import group
from everlearn.scaling.settings import Settings
from everlearn.scaling.texts import tokenize
from everlearn.scaling.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer
from everlearn.scaling.train import Moment, Training


def check_folder(folder: Path) -> None:
    """Refuse a place that is a file, or the directory of a run of another kind.

    Raises
    ------
    RunError
        If it is; says of what kind, and which verb reads it.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; expected the directory of a pretraining run, or a new one")
    kind = kind_of(folder)
    if kind == "campaign":
        raise RunError(
            f"{folder} is a campaign of discovery, not a pretraining run; expected everlearn discover {folder}, or "
            "another directory"
        )
    if kind == "learner":
        raise RunError(
            f"{folder} is a run of a learner, not a pretraining run; expected everlearn learn --resume {folder}, or "
            "another directory"
        )


def prepare(settings: Settings, folder: Path) -> None:
    """Make the run's directory with its settings, tokenizer and token files.

    What is there already stays, unless the run has no checkpoint and it was of other settings or texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, done = folder / "config.toml", steps(folder / "checkpoints")
    begun = bool(done)
    if begun and config.exists():
        _check_same(Settings.load(config).absolute(), settings.absolute(), folder, max(done))
    if not config.exists() or (not begun and Settings.load(config).absolute() != settings.absolute()):
        config.write_text(settings.dump(), encoding="utf-8")
    files = [Path(name) for name in settings.data.files]
    for file in files:
        if not file.is_file():
            raise DataError(f"there is no data file {file}; give token files or text files")
    texts = list(dict.fromkeys(file for file in files if is_text(file)))
    twice = [file for file in texts if any(file != other and file.name == other.name for other in texts)]
    if twice:
        raise DataError(f"{twice[0]} and {twice[1]} have one name, and so would their tokens; rename one")
    if texts and tokenize(settings, folder, texts) and not begun:
        (folder / "replay.json").unlink(missing_ok=True)  # its windows were of other tokens
    if settings.data.replay_by == "value" and settings.data.replay and settings.data.replay_share:
        value_memory(settings, folder)


def _check_same(held: Settings, asked: Settings, folder: Path, done: int) -> None:
    """Refuse to go on with a run of other texts, or to fewer steps than it has taken."""
    was, now = ([Path(name).name for name in each.data.train] for each in (held, asked))
    if was != now:  # whether texts of these names are those it has learned, `tokenize` looks
        raise SettingError(
            f"{folder} was begun with data.train {', '.join(was)}, and is asked to go on with {', '.join(now)}; give "
            f"what it was begun with, or begin another run with start = {str(folder)!r}"
        )
    if held.seed != asked.seed:
        raise SettingError(
            f"{folder} was begun with seed {held.seed}, not {asked.seed}; leave it, or begin another run"
        )
    if asked.train.steps < done:
        raise SettingError(
            f"{folder} has taken {done} steps already; train.steps is {asked.train.steps}, expected more"
        )


def tokenizer_of(settings: Settings, folder: Path) -> Tokenizer | ByteTokenizer:
    """The tokenizer of a run."""
    own = folder / "tokenizer.json"
    return open_tokenizer(str(own) if own.exists() else settings.data.tokenizer, [])


def pretrain(
    settings: Settings,
    folder: Path,
    moment: Callable[[Moment], None] = lambda _: None,
    beat: Callable[[], None] = lambda: None,
) -> float:
    """Train, from the newest checkpoint on if there is one, on all processes; returns the last (validation) loss.

    The process group must stand where there are several processes; they share ``folder``.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    first = not several or dist.get_rank() == 0
    lock = FileLock(folder / (".lock" if group() is None else f".lock-{group()}"))
    if first:
        check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(f"{folder} is in use by another run; wait for it to end, or stop it") from error
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --run") from error
    try:
        if first:
            with FileLock(folder / ".preparing"):  # replica groups share the folder
                prepare(settings, folder)
        if several:
            dist.barrier()
        with _memory():
            training = Training(settings, folder, "cuda" if torch.cuda.is_available() else "cpu")
            try:
                return training.run(moment, beat)
            except Exception:
                if not several:  # let the checkpoint that is being written end; of several processes others may be gone
                    training.checkpoints.wait()
                raise
    finally:
        lock.release()


@contextmanager
def _memory() -> Iterator[None]:
    """Say in one line that memory does not suffice; PyTorch's allocators raise what others do too."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, RuntimeError) and not re.search(r"allocat|out of memory|[Ss]torage size", said):
            raise
        raise RunError(
            f"the model and a step of it do not fit in this machine's memory ({said[:150]}); lower the model's sizes, "
            "train.seq_len or layout.micro_batch, or spread it over more processes"
        ) from error


def finished(folder: Path) -> tuple[Language, Tokenizer | ByteTokenizer, Settings]:
    """The model of a run's newest checkpoint, its tokenizer and its settings."""
    settings = Settings.load(folder / "config.toml")
    model, _ = load_model(folder / "checkpoints")
    return model.eval(), tokenizer_of(settings, folder), settings


@torch.no_grad()
def generate(
    model: Language, tokens: list[int], length: int, *, temperature: float = 0.8, top_k: int = 50, seed: int = 0
) -> list[int]:
    """Go on with a text, token by token.

    Parameters
    ----------
    model : Language
    tokens : list of int
        One or more.
    length : int
        Tokens to add.
    temperature : float
        0 takes the most probable token.
    top_k : int
        Draw among so many.

    Examples
    --------
    >>> from everlearn.models.language import LanguageConfig
    >>> model = Language(LanguageConfig(layers=1, hidden=16, heads=2, ffn=16, vocab=20, seq_len=8))
    >>> len(generate(model, [1, 2], 3))
    5
    """
    if not tokens:
        raise SettingError("nothing to go on from; give a prompt of one token or more")
    generator = torch.Generator().manual_seed(seed)
    tokens = list(tokens)
    for _ in range(length):
        logits = model(torch.tensor([tokens[-model.config.seq_len :]]))[0, -1].float()
        if temperature == 0:
            tokens.append(int(logits.argmax()))
            continue
        best, index = logits.topk(min(top_k, len(logits)))
        drawn = torch.multinomial((best / temperature).softmax(0), 1, generator=generator)
        tokens.append(int(index[drawn]))
    return tokens
