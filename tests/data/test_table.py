"""Manifests in CSV, TSV and Parquet."""

import gzip
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from everlearn.data import Columns, by_time, load, open_source
from everlearn.data.table import list_table
from everlearn.errors import DataError

HEAD = "path,label,time,task,site,patient,split"
ROWS = [
    "a.png,cat,2024-05-01,2,north,p1,train",
    "b.png,dog,2024-05-01T12:00:00Z,1,south,p2,train",
    "sub/c.png,cat,2024-05-02T00:00+02:00,1,north,,test",
]


def manifest(folder, text, name="samples.csv"):
    (folder / "sub").mkdir(exist_ok=True)
    for file in ("a.png", "b.png", "sub/c.png"):
        Image.new("L", (8, 8), 50).save(folder / file)
    (folder / name).write_text(text)
    return folder / name


def error_of(file, columns=None, **options):
    with pytest.raises(DataError) as caught:
        list_table(file, columns, **options)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    return str(caught.value)


def check(listing):
    assert list(listing.names) == ["a.png", "b.png", "sub/c.png"]
    assert listing.class_names == ("cat", "dog") and listing.labels.tolist() == [0, 1, 0]
    start = datetime(2024, 5, 1, tzinfo=UTC).timestamp()
    assert listing.times.tolist() == [start, start + 12 * 3600, start + 22 * 3600]
    assert listing.tasks.tolist() == [2, 1, 1]
    assert listing.sites.tolist() == ["north", "south", "north"]
    assert listing.patients.tolist() == ["p1", "p2", ""]
    assert listing.split.tolist() == [0, 0, 1]


def test_csv_with_every_column(tmp_path):
    check(list_table(manifest(tmp_path, "\n".join([HEAD, *ROWS]))))


def test_tsv_and_a_byte_order_mark(tmp_path):
    check(list_table(manifest(tmp_path, "\ufeff" + "\n".join([HEAD, *ROWS]).replace(",", "\t"), "samples.tsv")))


def test_parquet_with_typed_columns(tmp_path):
    manifest(tmp_path, "")
    zone = datetime(2024, 5, 1, tzinfo=UTC)
    table = {
        "path": ["a.png", "b.png", "sub/c.png"],
        "label": pa.array(["cat", "dog", "cat"]).dictionary_encode(),
        "time": [zone, zone.replace(hour=12), zone.replace(hour=22)],
        "task": [2, 1, 1],
        "site": ["north", "south", "north"],
        "patient": ["p1", "p2", None],
        "split": ["train", "train", "test"],
        "other": [[1], [2], [3]],
    }
    pq.write_table(pa.table(table), tmp_path / "samples.parquet")
    check(list_table(tmp_path / "samples.parquet"))


def test_columns_by_other_names(tmp_path):
    file = manifest(tmp_path, "file,finding,when\na.png,1,5\nb.png,2,7.5\n")
    listing = list_table(file, Columns(path="file", label="finding", time="when"))
    assert listing.class_names == ("1", "2") and listing.times.tolist() == [5.0, 7.5]
    assert listing.sites is None and listing.split is None


def test_labels_that_are_numbers_count_as_names(tmp_path):
    listing = list_table(manifest(tmp_path, "path,label\na.png,10\nb.png,02\nsub/c.png,2\n"))
    assert listing.class_names == ("02", "2", "10")
    pq.write_table(pa.table({"path": ["a", "b"], "label": [1.0, 2.0]}), tmp_path / "n.parquet")
    assert list_table(tmp_path / "n.parquet").class_names == ("1", "2")


def test_dates_and_task_names(tmp_path):
    days = {
        "path": ["a", "b"],
        "label": ["x", "y"],
        "time": [date(1970, 1, 2), date(1970, 1, 1)],
        "task": ["t10", "t9"],
    }
    pq.write_table(pa.table(days), tmp_path / "n.parquet")
    listing = list_table(tmp_path / "n.parquet")
    assert listing.times.tolist() == [86400.0, 0.0] and listing.tasks.tolist() == [1, 0]


def test_a_manifest_opens_reads_and_streams_by_time(tmp_path):
    rows = "\n".join(f"{'a.png' if i % 2 else 'b.png'},{'cat' if i % 3 else 'dog'},{100 - i}" for i in range(20))
    source = open_source(manifest(tmp_path, f"path,label,time\n{rows}\nmissing.png,cat,7\n"))
    assert source.shape == (1, 8, 8)
    stream = by_time(source, tasks=2)
    assert np.all(np.diff(source.times[np.concatenate(stream.tasks)]) >= 0)
    bad = []
    for _ in stream.batches(4, on_bad=bad.append):
        pass
    held = load(source, np.flatnonzero(source.test))[2]
    missing_is_test = bool(source.test[20])
    assert [q.name for q in bad] == ([] if missing_is_test else ["missing.png"])
    assert len(held) == source.test.sum() - missing_is_test


def test_whole_patients_are_held_out(tmp_path):
    rows = "\n".join(f"a.png,{'cat' if i % 2 else 'dog'},p{i // 4}" for i in range(40))
    source = open_source(manifest(tmp_path, f"path,label,patient\n{rows}\n"))
    assert source.test.any()
    for patient in np.unique(source.patients):
        assert len(set(source.test[source.patients == patient])) == 1


def test_paths_are_relative_to_the_root_that_is_named(tmp_path):
    manifest(tmp_path, "")
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "m.csv"
    file.write_text(f"path,label\n{tmp_path}/a.png,x\nb.png,y\n")
    assert len(load(open_source(file, root=tmp_path), np.arange(2))[2]) == 2
    assert "row 1 has the path" in error_of(file)


@pytest.mark.parametrize("path", ["../a.png", "/etc/passwd", "sub/../../a.png"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
    assert "outside" in error_of(manifest(tmp_path, f"path,label\n{path},x\n"))


def test_a_missing_column_names_those_there_are(tmp_path):
    file = manifest(tmp_path, "path,finding\na.png,x\n")
    assert "has no column 'label'; it has path, finding" in error_of(file)
    assert "has no column 'site'" in error_of(file, Columns(label="finding", site="site"))
    assert "has no column 'file'" in error_of(file, Columns(path="file", label="finding"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no column 'path'; it has none"),
        ("path,label\n", "has no rows"),
        ("path,label,label\na,b,c\n", "has 2 columns 'label'"),
        ("path,label\na.png,x\nb.png,\n", "column 'label' is empty in 1 rows, first in row 2"),
        ("path,label\n,x\n", "column 'path' is empty"),
        ("path,label,time\na.png,x,yesterday\n", "row 1, column 'time' has the time 'yesterday'"),
        ("path,label,time\na.png,x,nan\n", "has the time 'nan'"),
        ("path,label,time\na.png,x,\n", "has the time ''"),
        ("path,label,split\na.png,x,holdout\n", "says holdout; expected train, test or val"),
        ("path,label\na.png,x,y\n", "cannot be read as a table"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, message):
    assert message in error_of(manifest(tmp_path, text))


def test_bytes_that_are_no_table(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    assert "cannot be read as a table" in error_of(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe\x00,x\n")
    assert "line 2 is not UTF-8" in error_of(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    assert "is a folder; expected a .csv" in error_of(tmp_path / "b.csv")
    packed = bytearray(gzip.compress(b"path,label\n" + b"a.png,x\n" * 2000))
    packed[15:25] = b"\xff" * 10
    (tmp_path / "c.csv.gz").write_bytes(packed)
    assert "cannot be read as a table" in error_of(tmp_path / "c.csv.gz")
