"""Tables of texts."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.data import Columns, by_task, load, open_source
from everlearn.data.table import read_texts
from everlearn.data.text import to_bytes, to_text
from everlearn.errors import DataError, SettingError

ROWS = 'label,text\na,"one\ntwo"\nb,\nb,three\na,four\n'


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers(1, 40))
def test_a_text_comes_back_as_far_as_it_fits(text, length):
    back = to_text(to_bytes(text, length))
    assert text.strip().startswith(back)
    assert len(text.strip().encode()) - len(back.encode()) < 4 or len(back.encode()) > length - 4


@pytest.mark.parametrize("name", ["texts.csv", "texts.csv.gz", "texts.tsv", "texts.parquet"])
def test_formats_and_an_empty_text_put_aside(tmp_path, name):
    file = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"label": list("abba"), "text": ["one\ntwo", None, "three", "four"]}), file)
    elif name.endswith("gz"):
        file.write_bytes(gzip.compress(ROWS.encode()))
    else:
        file.write_text(ROWS.replace(",", "\t") if "tsv" in name else ROWS)
    source = open_source(file, holdout=0.0)
    assert source.text and source.in_memory and source.shape == (1, 1, 32)
    assert source.class_names == ("a", "b") and source.names[1] == "row 2"
    inputs, labels, kept = load(source, np.arange(4))
    assert kept.tolist() == [0, 2, 3] and labels.tolist() == [0, 1, 0]
    assert [to_text(x.numpy()) for x in inputs] == ["one\ntwo", "three", "four"]
    with pytest.raises(DataError, match=r"row 2 has no text"):
        source.read(1)


def test_a_path_column_means_pictures_unless_the_text_is_named(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("path,text,label\na.png,one,x\nb.png,two,y\n")
    with pytest.raises(DataError, match="none can be read"):
        open_source(file)
    assert open_source(file, columns=Columns(text="text")).text


def test_longest_text_and_size(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("text,label\n" + "x" * 2000 + ",a\nshort,b\n")
    assert open_source(file).shape == (1, 1, 1024)
    assert open_source(file, size=64).shape == (1, 1, 64)
    with pytest.raises(SettingError, match="holds texts"):
        open_source(file, channels=3)


def test_tasks_by_name(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("text,label,task\n" + "".join(f"w{i},{'ab'[i % 2]},part{i % 3}\n" for i in range(30)))
    stream = by_task(open_source(file))
    assert [len(t) for t in stream.tasks] == [8, 8, 8]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"text,label\none,a\ncaf\xe9,b\n", "line 3 is not UTF-8"),
        (b"text,label\n" + b"one,a\n" * 9000 + b"caf\xe9,b\n", "line 9002 is not UTF-8"),
        (b"t\xe9xt,label\none,a\n", "line 1 is not UTF-8"),
        (b"text,label\none,a\ntwo,a\n", "one class only, 'a'"),
        (b"text,label\none,a\ntwo,\n", "column 'label' is empty in 1 rows, first in row 2"),
        (b"content,label\none,a\ntwo,b\n", "for texts name their column: text=NAME"),
        (b"text,label\none,a,c\ntwo,b\n", "Row #2: Expected 2 columns, got 3"),
    ],
)
def test_a_table_that_cannot_be_used_gets_one_line(tmp_path, raw, line):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "t.csv")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_texts_to_predict_need_no_labels(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("id,content\n1,one\n2,two\n")
    assert read_texts(file, "content") == ["one", "two"]
    with pytest.raises(DataError, match="no column 'text'; it has id, content"):
        read_texts(file, "text")
    file.write_text('content\none\n" "\n')
    with pytest.raises(DataError, match="row 2 has no text"):
        read_texts(file, "content")
