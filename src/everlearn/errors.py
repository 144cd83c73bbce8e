"""What can go wrong, in one family: a message says what was found, what was expected and what to do."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class EverlearnError(Exception):
    """Base of all errors that Everlearn raises on purpose. The command line prints it in one line and exits with 2."""


class DataError(EverlearnError):
    """A source of samples cannot be read or makes no sense."""


class NotFoundError(DataError):
    """What was asked for by its name or number is not there."""


class TakenError(DataError):
    """A key stands for something else already."""


class SettingError(EverlearnError):
    """A setting, an option or an argument is out of range or does not fit the others."""


class RunError(EverlearnError):
    """A run's directory is missing, damaged, in use, or cannot be written."""


class ModelError(EverlearnError):
    """A model cannot be built, loaded, or does not fit the data or the method."""


UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file raises, also one packed by gzip, which lets zlib's own error through."""


def first_fault(error: ValidationError) -> str:
    """The first setting that does not fit, and why, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "missing":
        return f"setting {where} is missing"
    found = "a table" if isinstance(first["input"], dict) else repr(first["input"])
    msg = first["msg"].removeprefix("Value error, ")
    return f"setting {where} is {found}: {msg[0].lower() + msg[1:]}"
