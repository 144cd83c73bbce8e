"""What the tests share."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data():
    """A function from a file's name to its path beside the project; skips where the folder is missing."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not beside the project")
        return SHARED / name

    return find


@pytest.fixture
def rng():
    """A seeded generator."""
    return torch.Generator().manual_seed(0)
