"""Whether a run's directory has what belongs together: what is missing is said before anything is made anew."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from everlearn.errors import RunError
from everlearn.runs import checkpoints
from everlearn.runs.config import Config
from everlearn.runs.journal import Journal
from everlearn.runs.lock import check_directory


def check_files(path: Path, config: Config) -> None:
    """Refuse a run whose checkpoints are no directory, or whose journal is gone while they are there."""
    folder = path / "checkpoints"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; expected the directory of the run's checkpoints: put it back from a copy")
    if config.database is None and checkpoints.steps(folder) and not (path / "journal.sqlite").is_file():
        raise RunError(
            f"{path} has checkpoints but no journal.sqlite, which names the classes and samples they learned; put it "
            "back from a copy"
        )


def check_state(path: Path, tensors: dict[str, Tensor], warnings: list[str], journal: Journal) -> None:
    """Refuse a run of whose checkpoints none can be read, or whose journal does not know the classes of the one taken.

    Parameters
    ----------
    path : Path
    tensors : dict
        Of the checkpoint that was taken; none where there is none.
    warnings : list of str
        What was wrong with those that were passed over.
    journal : Journal
    """
    if warnings and not tensors:
        raise RunError(
            f"no checkpoint of {path} can be used: {warnings[0]}; put {path / 'checkpoints'} back from a copy, or, to "
            f"learn all of it again, delete it and run everlearn learn --resume {path}"
        )
    codes = tensors["learner.codes"].tolist() if "learner.codes" in tensors else []
    if unknown := len(set(codes) - journal.class_names().keys()):
        raise RunError(
            f"the journal {journal.db.place} does not know {unknown} of the {len(codes)} classes that the run has "
            "learned: it is empty or of another run; put it back from a copy"
        )


def open_journal(path: Path) -> Journal:
    """The journal of a run whose checkpoints need not be whole; an emptied one is refused."""
    check_directory(path)
    config = Config.load(path / "config.toml")
    check_files(path, config)
    journal = Journal(config.database or path / "journal.sqlite")
    if checkpoints.steps(path / "checkpoints") and not journal.class_names():
        journal.close()
        raise RunError(
            f"the journal {journal.db.place} knows no class, but the run has learned some: it is empty or of another "
            "run; put it back from a copy"
        )
    return journal
