"""Text to tokens and back: byte-pair encoding by Hugging Face tokenizers, or plain bytes, which need nothing."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everlearn.errors import UNREADABLE, DataError, SettingError

END = "<|endoftext|>"


class ByteTokenizer:
    """256 bytes and an end of text.

    Examples
    --------
    >>> ByteTokenizer().decode(ByteTokenizer().encode("배터리"))
    '배터리'
    """

    vocab = 257
    end = 256
    hash = "bytes"

    def encode(self, text: str) -> list[int]:
        """Text to tokens."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Tokens to text; broken characters are shown as such."""
        return bytes(t for t in tokens if t < 256).decode(errors="replace")

    def save(self, file: Path) -> None:
        """Nothing to save."""


class Tokenizer:
    """A ``tokenizer.json`` of Hugging Face tokenizers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.vocab: int = inner.get_vocab_size()
        ends = [inner.token_to_id(word) for word in (END, "</s>", "[|endofturn|]", "<|im_end|>")]
        self.end: int = next((id_ for id_ in ends if id_ is not None), 0)
        self.hash = hashlib.sha256(inner.to_str().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, file: Path) -> Tokenizer:
        """Read a ``tokenizer.json``."""
        if not file.is_file():
            raise DataError(f"there is no tokenizer {file}; give a tokenizer.json, 'bytes' or 'bpe:SIZE'")
        try:
            return cls(_library().Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{file} is not a tokenizer.json: {error}") from error

    @classmethod
    def train(cls, files: list[Path], vocab: int) -> Tokenizer:
        """Learn byte-level byte-pair encoding from text files.

        Parameters
        ----------
        files : list of Path
        vocab : int
            258 or more: bytes, the end of text, and what is merged.
        """
        if vocab < 258:
            raise SettingError(f"a byte-pair vocabulary of {vocab}; expected 258 or more")
        library = _library()
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = library.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator((piece for file in files for piece in read_text(file)), trainer)
        return cls(inner)

    def encode(self, text: str) -> list[int]:
        """Text to tokens."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Tokens to text."""
        return str(self.inner.decode(tokens))

    def save(self, file: Path) -> None:
        """Write ``tokenizer.json``."""
        self.inner.save(str(file))


def open_tokenizer(name: str, files: list[Path]) -> Tokenizer | ByteTokenizer:
    """``bytes``, ``bpe:SIZE`` learned from the files, a ``tokenizer.json``, or the one in a ``.gguf``."""
    if name == "bytes":
        return ByteTokenizer()
    kind, _, size = name.partition(":")
    if kind == "bpe":
        if not size.isdigit():
            raise SettingError(f"tokenizer {name!r}; expected bpe:SIZE, such as bpe:4096")
        return Tokenizer.train(files, int(size))
    if name.endswith(".gguf"):
        from everlearn.models.language_gguf import tokenizer_of

        return Tokenizer(tokenizer_of(Path(name)))
    return Tokenizer.load(Path(name))


def read_text(file: Path, size: int = 1 << 20) -> Iterator[str]:
    """The text of a file, gzip or plain, UTF-8, in pieces that end at line ends."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as stream:
            while lines := stream.readlines(size):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); convert it") from error
    except UNREADABLE as error:
        raise DataError(f"cannot read text {file}: {error}; allow reading it, or copy it anew") from error


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise SettingError(
            "byte-pair tokenizers need `pip install everlearn[text]`; or use tokenizer = 'bytes'"
        ) from error
    return tokenizers
