"""``everlearn evaluate``: which samples of a source are taken."""

import shutil

import pytest

from .conftest import picture_folder


@pytest.fixture(scope="module")
def pictures(everlearn, tmp_path_factory):
    """A folder of 2 × 10 pictures and a run that learned it, two of each class held out."""
    folder = tmp_path_factory.mktemp("evaluate")
    learned = picture_folder(folder / "learned", n=10)
    everlearn.json("learn", learned, "--run", folder / "r", "--tasks", 1, "--memory", 8, "--batch", 4, "--method", "er")
    return folder


def test_of_the_source_that_was_learned_only_what_was_held_out(everlearn, pictures):
    for name in (pictures / "learned", pictures / "x" / ".." / "learned"):
        result = everlearn.json("evaluate", pictures / "r", name)
        assert (result["samples"], result["part"]) == (4, "held out when the run learned from it")


def test_all_of_another_source_without_a_test_part(everlearn, pictures, tmp_path):
    other = picture_folder(tmp_path / "other", n=7, size=20)  # of another size, too: read in the run's
    result = everlearn.json("evaluate", pictures / "r", other)
    assert (result["samples"], result["part"]) == (14, "all of it")
    assert "on 14 samples: all of it" in everlearn("evaluate", pictures / "r", other)[1]
    shutil.rmtree(other / "dog")
    assert everlearn.json("evaluate", pictures / "r", other)["classes"].keys() == {"cat"}


def test_the_test_part_of_another_source(everlearn, pictures, tmp_path):
    picture_folder(tmp_path / "split" / "train", n=5)
    picture_folder(tmp_path / "split" / "test", n=3)
    result = everlearn.json("evaluate", pictures / "r", tmp_path / "split")
    assert (result["samples"], result["part"]) == (6, "its test part")
