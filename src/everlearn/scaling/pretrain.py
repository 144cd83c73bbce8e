"""A pretraining run from its settings: tokens made, trained, exported, text generated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from everlearn.errors import DataError, RunError, SettingError
from everlearn.models.language import Language
from everlearn.scaling.checkpoint import load_model, steps
from everlearn.scaling.data import is_text
from everlearn.scaling.replay_values import value_memory
from everlearn.scaling.replicas import group
from everlearn.scaling.settings import Settings
from everlearn.scaling.texts import tokenize
from everlearn.scaling.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer
from everlearn.scaling.train import Moment, Training


def prepare(settings: Settings, folder: Path) -> None:
    """Make the run's directory with its settings, tokenizer and token files.

    What is there already stays, unless the run has no checkpoint and it was of other settings or texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, begun = folder / "config.toml", bool(steps(folder / "checkpoints"))
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
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(f"{folder} is in use by another run; wait for it to end, or stop it") from error
    try:
        if first:
            with FileLock(folder / ".preparing"):  # replica groups share the folder
                prepare(settings, folder)
        if several:
            dist.barrier()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        training = Training(settings, folder, device)
        try:
            return training.run(moment, beat)
        except Exception:
            if not several:  # let the checkpoint that is being written end; of several processes others may be gone
                training.checkpoints.wait()
            raise
    finally:
        lock.release()


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
