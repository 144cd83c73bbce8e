"""Results as JSON lines."""

import pytest

from everlearn.bench.rows import append_rows, read_rows
from everlearn.errors import RunError


def test_a_line_cut_off_is_written_anew(tmp_path):
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"a": 1}, {"a": 2}])
    file.write_text(file.read_text() + '{"a": ')
    assert read_rows(file) == [{"a": 1}, {"a": 2}]
    append_rows(file, [{"a": 3}])
    assert read_rows(file) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("held", [b"a letter", b"[1]\n", b"3", b"\xff\xfe", b'{"a": 1}\nand more'])
def test_what_holds_no_results_is_refused_and_kept(tmp_path, held):
    file = tmp_path / "letter.txt"
    file.write_bytes(held)
    with pytest.raises(RunError, match=r"letter\.txt.*--results"):
        read_rows(file)
    assert file.read_bytes() == held


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_rows(tmp_path)
