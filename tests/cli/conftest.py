"""Running the command as a user does, in this process."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from everlearn.cli.main import run as main


class Everlearn:
    """``everlearn(*words)`` gives (exit code, standard output, standard error)."""

    def __call__(self, *words: object) -> tuple[int, str, str]:
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["everlearn", *map(str, words)]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = argv
        return code, out.getvalue(), err.getvalue()

    def json(self, *words: object) -> dict:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out.strip().splitlines()[-1])

    def refused(self, *words: object) -> str:
        """The one line of a refusal."""
        code, out, err = self(*words)
        assert code == 2, (code, out, err)
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("everlearn: ")
        return lines[0]


@pytest.fixture(scope="session")
def everlearn() -> Everlearn:
    torch.set_num_threads(1)
    return Everlearn()


@pytest.fixture(scope="session")
def digits_run(everlearn, tmp_path_factory) -> Path:
    """A finished run on digits."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    everlearn.json("learn", "builtin:digits", "--run", path, "--memory", 100, "--set", "candidates=20")
    return path


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory) -> list[Path]:
    """Two digits as PNG files."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    files = []
    for i, picture in enumerate(load_digits().images[:2]):
        files.append(folder / f"{i}.png")
        Image.fromarray((picture * 255 / 16).astype("uint8")).save(files[-1])
    return files


def picture_folder(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 6, size: int = 16, spread: int = 100
) -> Path:
    """A class folder of seeded noise pictures."""
    rng = torch.Generator().manual_seed(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = torch.randint(
                spread * label, spread * (label + 1), (size, size, 3), generator=rng, dtype=torch.uint8
            )
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
    return folder
