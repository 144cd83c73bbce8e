"""Results as lines of JSON, kept as they come, so that a table that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlearn.errors import RunError


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Results in a file of JSON lines; a last line that was cut off by an interruption is passed over.

    Raises
    ------
    RunError
        If the file cannot be read, or holds anything else.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read as JSON lines; give --results another name") from error
    rows = []
    for number, text in enumerate(lines, 1):
        row = _result(text)
        if row is not None:
            rows.append(row)
        elif number < len(lines) or not text.startswith("{"):  # else cut off
            raise RunError(f"{file}, line {number}: no result in JSON; repair it, or give --results another name")
    return rows


def _result(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def append_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append results, behind a whole line."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if text and not text.endswith("\n"):  # cut off by an interruption
            file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        with file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise RunError(f"cannot write results to {file}: {error.strerror}") from error
