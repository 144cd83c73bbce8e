"""What the tests share."""

import importlib.util
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


def _encoders():
    """The module beside this file; tests are imported by path, so it is too."""
    spec = importlib.util.spec_from_file_location("encoders", Path(__file__).with_name("encoders.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def encoders():
    """Makers of a tiny sentence encoder and of tables of texts; skips without transformers."""
    pytest.importorskip("transformers")
    return _encoders()


@pytest.fixture(scope="session")
def encoder_folder(encoders, tmp_path_factory):
    """A tiny sentence encoder."""
    return encoders.build_encoder(tmp_path_factory.mktemp("encoders") / "tiny")
