"""A run's texts become token files, once; ``data/texts.json`` says beside them what each was made from.

That is the SHA-256 of a whole text. Lest a long one be read again at every start, its mark is kept as well: its size,
its time of change and a hash of its two ends. Where the mark is as it was, so is the text; where it is not, as after a
copy, the whole text decides.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from everlearn.errors import DataError, RunError
from everlearn.scaling.checkpoint import steps
from everlearn.scaling.data import Tokens, is_text, token_file, write_tokens
from everlearn.scaling.settings import Settings
from everlearn.scaling.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer, read_text

ENDS = 1 << 16  # bytes


def tokenize(settings: Settings, folder: Path, texts: list[Path]) -> bool:
    """Make a run's tokenizer and the tokens of its texts; what is of the same text stays. Returns whether any was made.

    A run without a checkpoint begins anew: what is of another text or tokenizer is made again.

    Parameters
    ----------
    settings : Settings
    folder : Path
        Of the run.
    texts : list of Path
        Of different names.

    Raises
    ------
    RunError
        If the run has a checkpoint and a text has changed: it could not go on to the same bits.
    """
    begun, known = bool(steps(folder / "checkpoints")), _read(folder)
    made: dict[str, Any] = known["texts"]
    found = {text.name: _origin(text, made.get(text.name, {})) for text in texts}
    changed = [text for text in texts if text.name in made and not _same(made[text.name], found[text.name])]
    if begun and changed:
        raise RunError(f"{changed[0]} is not the text that {folder} has learned; put it back, or begin another run")
    for text in changed:
        del made[text.name]
    made |= {name: origin for name, origin in found.items() if name in made}
    _write(folder, known)  # before the tokens: a run killed between the two makes them once more
    tokenizer = _tokenizer(settings, folder, known, found, begun)
    stale = [text for text in texts if not _stands(token_file(text, folder), tokenizer, begun, text.name in made)]
    for text in stale:
        parts = [tokenizer.encode(piece) for piece in read_text(text)]
        write_tokens(token_file(text, folder), [*parts, [tokenizer.end]], tokenizer.vocab, tokenizer.hash)
        made[text.name] = found[text.name]
        _write(folder, known)
    return bool(stale)


def _stands(tokens: Path, tokenizer: Tokenizer | ByteTokenizer, begun: bool, known: bool) -> bool:
    return tokens.exists() and (begun or (known and Tokens(tokens).tokenizer == tokenizer.hash))


def _tokenizer(
    settings: Settings, folder: Path, known: dict[str, Any], found: dict[str, Any], begun: bool
) -> Tokenizer | ByteTokenizer:
    """The run's own, or one made from what the settings name."""
    own, name = folder / "tokenizer.json", settings.data.tokenizer
    train = [Path(file) for file in settings.data.train if is_text(Path(file))]
    origin: list[Any] = [name]
    if name.startswith("bpe:"):
        origin += [found[file.name]["sha256"] for file in train]
    elif Path(name).is_file():
        origin += _mark(Path(name))
    if own.exists() and (begun or known["tokenizer"] == origin):
        return open_tokenizer(str(own), [])
    if begun and known["tokenizer"] not in ([], origin):
        raise RunError(
            f"{folder} has learned by tokenizer {known['tokenizer'][0]}, not {name}; set data.tokenizer back"
        )
    tokenizer = open_tokenizer(name, train)
    known["tokenizer"] = []
    _write(folder, known)
    if isinstance(tokenizer, ByteTokenizer):
        own.unlink(missing_ok=True)
    tokenizer.save(own)
    known["tokenizer"] = origin
    _write(folder, known)
    return tokenizer


def _origin(file: Path, known: dict[str, Any]) -> dict[str, Any]:
    """What a text is: its mark, and its SHA-256, which is taken anew only if the mark is not the known one."""
    mark = _mark(file)
    if known.get("mark") == mark:
        return known
    with file.open("rb") as stream:
        return {"mark": mark, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _mark(file: Path) -> list[Any]:
    """Size, time of change in ns, and a hash of the two ends."""
    try:
        with file.open("rb") as stream:
            told = os.fstat(stream.fileno())
            ends = hashlib.sha256(stream.read(ENDS))
            stream.seek(max(0, told.st_size - ENDS))
            ends.update(stream.read(ENDS))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; allow reading it") from error
    return [told.st_size, told.st_mtime_ns, ends.hexdigest()]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a.get("sha256") == b.get("sha256"))


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "data" / "texts.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {"tokenizer": list(known["tokenizer"]), "texts": {name: dict(x) for name, x in known["texts"].items()}}
    except FileNotFoundError:
        return {"tokenizer": [], "texts": {}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} cannot be read ({error}); delete it if the run's texts are as they were") from error


def _write(folder: Path, known: dict[str, Any]) -> None:
    file = folder / "data" / "texts.json"
    file.parent.mkdir(exist_ok=True)
    beside = file.with_name(f".{file.name}")
    beside.write_text(json.dumps(known), encoding="utf-8")
    beside.rename(file)
