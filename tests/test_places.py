"""Places for files are looked at, and nothing is made."""

import os

import pytest

from everlearn.errors import RunError
from everlearn.places import check_place


def test_a_place_is_where_the_nearest_folder_takes_files(tmp_path):
    check_place(tmp_path / "not" / "there" / "yet")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_place_and_nothing_below_it(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "in" / "it"):
        with pytest.raises(RunError, match=f"cannot write to {place}: {file} is not a directory; choose another"):
            check_place(place)


def test_a_folder_that_may_not_be_written_to_is_no_place(tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and allowed(path, mode))
    with pytest.raises(RunError, match=f"out: {tmp_path} may not be written to; choose another"):
        check_place(tmp_path / "out")
