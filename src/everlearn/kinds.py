"""What kind of run a directory holds, told by the files of settings that each kind has."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

Kind = Literal["learner", "campaign", "pretraining"]


def kind_of(folder: Path, settings: dict[str, Any] | None = None) -> Kind | None:
    """The kind of run, None where the directory is none.

    Parameters
    ----------
    folder : Path
    settings : dict, optional
        What its ``config.toml`` says, where that is known; else it is read.

    Examples
    --------
    >>> kind_of(Path("nowhere")) is None
    True
    """
    if (folder / "campaign.toml").is_file():
        return "campaign"
    if settings is None:
        try:
            settings = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    of_pretraining = {"model", "train"} & settings.keys()
    if len(of_pretraining) == 2:
        return "pretraining"
    return "learner" if "data" in settings and not of_pretraining else None
