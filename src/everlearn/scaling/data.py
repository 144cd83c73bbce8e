"""Token files, memory-mapped, and a sampler that is a pure function of (seed, step).

A token file is a header of 512 bytes (the magic word, then JSON padded with spaces) and the tokens in little-endian
order, two bytes each where the vocabulary allows, else four.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.errors import DataError

MAGIC = b"EVTOKEN1"
HEADER = 512


def write_tokens(
    file: Path, parts: Iterable[Sequence[int] | NDArray[np.integer]], vocab: int, tokenizer: str = ""
) -> int:
    """Write a token file, whole or not at all; returns the number of tokens.

    Parameters
    ----------
    file : Path
    parts : iterable of sequences of int
        The tokens, piece by piece.
    vocab : int
        Tokens are 0 … vocab − 1.
    tokenizer : str
        A hash that says which tokenizer made them.
    """
    kind = np.dtype("<u2" if vocab <= 2**16 else "<u4")
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    count = 0
    try:
        with beside.open("wb") as stream:
            stream.write(bytes(HEADER))
            for part in parts:
                array = np.asarray(part, dtype=np.int64)
                if len(array) and not 0 <= array.min() <= array.max() < vocab:
                    raise DataError(f"token {array.max()} for a vocabulary of {vocab}; the tokenizer does not fit")
                stream.write(array.astype(kind).tobytes())
                count += len(array)
            known = {"dtype": kind.str, "tokens": count, "vocab": vocab, "tokenizer": tokenizer}
            stream.seek(0)
            stream.write((MAGIC + json.dumps(known).encode()).ljust(HEADER))
            stream.flush()
            os.fsync(stream.fileno())
        beside.rename(file)
    finally:
        beside.unlink(missing_ok=True)
    return count


def is_text(file: Path) -> bool:
    """Whether a data file is text, plain or gzip: any file that is no token file."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) != MAGIC
    except OSError:
        return file.name.endswith((".txt", ".txt.gz"))


def token_file(file: Path, folder: Path) -> Path:
    """Where the tokens of a data file are in a run's directory."""
    return folder / "data" / f"{file.name}.tokens" if is_text(file) else file


class Tokens:
    """A token file, opened.

    Attributes
    ----------
    array : array of uint16 or uint32
        All tokens, memory-mapped.
    vocab : int
    tokenizer : str
        The hash of the tokenizer that made them.

    Raises
    ------
    DataError
        If the file is missing, no token file, or cut short.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                header = stream.read(HEADER)
            if not header.startswith(MAGIC):
                raise DataError(f"{file} is not a token file; make one from text with everlearn pretrain")
            known = json.loads(header[len(MAGIC) :])
            kind, self.vocab, self.tokenizer = np.dtype(known["dtype"]), int(known["vocab"]), str(known["tokenizer"])
            expected = HEADER + kind.itemsize * int(known["tokens"])
        except OSError as error:
            raise DataError(f"cannot read token file {file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: the token file's header is damaged; make the file anew") from error
        if (found := file.stat().st_size) != expected:
            word = "cut short" if found < expected else "too long"
            raise DataError(f"token file {file} is {word}: {found} bytes, expected {expected}; make or copy it anew")
        empty = int(known["tokens"]) == 0
        self.array = np.zeros(0, kind) if empty else np.memmap(file, kind, "r", HEADER)

    def __len__(self) -> int:
        return len(self.array)


class Sampler:
    """Which sequence is the n-th of a run: a pure function of the seed and n, whatever the number of processes.

    Every file is cut into windows of ``seq_len`` tokens and the one behind them. Files take turns by their weights; the
    windows of one come in a pseudo-random order, all once before any a second time.

    Parameters
    ----------
    files : sequence of Tokens
    seq_len : int
    seed : int
    weights : sequence of float, optional
        Share of each file; by default its share of all windows.

    Examples
    --------
    >>> places = [place(9, n, key=3) for n in range(9)]
    >>> sorted(places) == list(range(9)), places != sorted(places)
    (True, True)
    """

    def __init__(
        self, files: Sequence[Tokens], seq_len: int, seed: int, weights: Sequence[float] | None = None
    ) -> None:
        self.files, self.seq_len, self.seed = list(files), seq_len, seed
        self.windows = [(len(file) - 1) // seq_len for file in files]
        for file, windows in zip(files, self.windows):
            if windows < 1:
                raise DataError(f"{file.file} has {len(file)} tokens; expected more than a sequence's {seq_len}")
        shares = list(weights) if weights is not None else [float(n) for n in self.windows]
        if len(shares) != len(self.files) or min(shares) < 0 or sum(shares) <= 0:
            raise DataError(
                f"{len(shares)} weights {shares} for {len(self.files)} files; expected one of 0 or more each"
            )
        # of those not yet placed, the share of file i, in 2^-32: integers, so that counts are exact at any n
        self.shares = [round(2**32 * shares[i] / (sum(shares[: i + 1]) or 1)) for i in range(len(shares))]

    def window(self, n: int) -> tuple[int, int]:
        """File and window of the n-th sequence."""
        for i in range(len(self.files) - 1, 0, -1):
            before, after = (n * self.shares[i]) >> 32, ((n + 1) * self.shares[i]) >> 32
            if after > before:
                n = before
                break
            n -= before
        else:
            i = 0
        epoch, index = divmod(n, self.windows[i])
        return i, place(self.windows[i], index, key=mix(mix(self.seed * 1000003 + i) + epoch))

    def batch(self, step: int, global_batch: int, part: slice) -> tuple[Tensor, Tensor]:
        """Tokens and labels, ``[n, S]`` int64 each, of some of a step's sequences."""
        rows = []
        for j in range(global_batch)[part]:
            i, window = self.window(step * global_batch + j)
            start = window * self.seq_len
            rows.append(self.files[i].array[start : start + self.seq_len + 1].astype(np.int64))
        both = torch.from_numpy(np.stack(rows))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def place(size: int, index: int, key: int) -> int:
    """Where a keyed permutation of 0 … size − 1 sends an index: a Feistel network walked until inside.

    Black & Rogaway 2002, *Ciphers with Arbitrary Finite Domains*.
    """
    bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << bits) - 1
    while True:
        left, right = index >> bits, index & mask
        for i in range(4):
            left, right = right, left ^ (mix(key + (i << 40) + right) & mask)
        index = (left << bits) | right
        if index < size:
            return index


def mix(x: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return x ^ (x >> 31)
