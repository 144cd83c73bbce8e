"""Pools: what is read, and what is kept aside."""

import gzip

import pytest

from everlearn.discovery import CampaignConfig
from everlearn.discovery.pool import open_pool
from everlearn.discovery.results import read_results
from everlearn.errors import DataError, SettingError

Y = {"targets": [{"name": "y"}]}


def read(tmp_path, text, **settings):
    file = tmp_path / "pool.csv"
    file.write_text(text, encoding="utf-8")
    return open_pool(file, CampaignConfig.of(Y | settings))


def test_bad_rows_are_named_and_the_others_stay(tmp_path):
    pytest.importorskip("rdkit")
    pool = read(tmp_path, "smiles,y\nCCO,1\nC1CC,2\nOCC,3\nCCC,<1E-10\nCCN,4 meV\nCCF,\n,5\nC(C)O,\n")
    assert [(each.row, each.reason) for each in pool.aside] == [
        (3, "invalid SMILES 'C1CC'"),
        (4, "the same candidate as row 2; its value counts as a repeat"),
        (5, "y: '<1E-10' is a bound, expected a number"),
        (6, "y: '4 meV' is in meV, expected a number without a unit as most rows"),
        (8, "smiles is empty"),
        (9, "the same candidate as row 2; it is listed once"),
    ]
    assert [candidate.name for candidate in pool.candidates] == ["CCO", "CCF"]
    assert [each.values for each in pool.measured] == [(1.0,), (3.0,)]


def test_formulas(tmp_path):
    pytest.importorskip("pymatgen")
    pool = read(tmp_path, "formula,y\nFe2O3,1\nFe4O6,2\nLiXx2,\nNaCl,\n")
    assert pool.inputs == "composition"
    assert [str(each) for each in pool.aside] == [
        "row 3: the same candidate as row 2; its value counts as a repeat",
        "row 4: invalid formula 'LiXx2'",
    ]
    assert pool.find({"formula": "ClNa"}) == "NaCl"


def test_columns_are_numbers_or_levels(tmp_path):
    rows = "".join(f"{t},{s},{t}\n" for t in range(8) for s in "ab")
    pool = read(tmp_path, "T,salt,y\n" + rows + "warm,a,1\n", inputs="columns")
    assert [(column.name, column.numeric) for column in pool.columns] == [("T", True), ("salt", False)]
    assert [str(each) for each in pool.aside] == ["row 18: T: 'warm' is not a number"]
    assert pool.candidates[0].name == "row 2"


def test_a_row_with_more_cells_than_columns_is_kept_aside_in_pools_and_results(tmp_path):
    pool = read(tmp_path, "T,y\n1,2\n2,3,4\n3,4,,\n")
    reason = "it has 3 cells for 2 columns; quote what holds a comma"
    assert [str(each) for each in pool.aside] == [f"row 3: {reason}"]
    assert [candidate.name for candidate in pool.candidates] == ["row 2", "row 4"]
    (tmp_path / "results.csv").write_text("candidate,y\nrow 2,2,5\nrow 4,2\n", encoding="utf-8")
    entries, aside = read_results(tmp_path / "results.csv", pool, CampaignConfig.of(Y))
    assert [row for row, _ in entries] == [3] and [str(each) for each in aside] == [f"row 2: row 2: {reason}"]


def test_numbers_too_large_to_square_are_kept_aside(tmp_path):
    pool = read(tmp_path, "T,y\n1e300,1\n2,1e101\n3,1\n4,1e99\n")
    assert [str(each) for each in pool.aside] == [
        "row 2: T: '1e300' is beyond 1e+100; give smaller numbers, in another unit",
        "row 3: y: '1e101' is beyond 1e+100; give smaller numbers, in another unit",
    ]


def test_names_are_used_and_must_differ(tmp_path):
    pool = read(tmp_path, "id,T,y\na,1,1\nb,2,\na,3,\n")
    assert [candidate.name for candidate in pool.candidates] == ["a", "b"]
    assert str(pool.aside[0]) == "row 4: the name 'a' is another candidate's already"


def test_results_find_a_candidate_by_the_name_of_its_second_row_and_say_why_one_was_kept_aside(tmp_path):
    pytest.importorskip("rdkit")
    pool = read(tmp_path, "id,smiles,y\na,CCO,1\nb,OCC,\nc,CCC,<1E-10\n")
    (tmp_path / "results.csv").write_text("id,y\nb,2\nc,3\nd,4\n,5\n", encoding="utf-8")
    entries, aside = read_results(tmp_path / "results.csv", pool, CampaignConfig.of(Y))
    assert [(row, each.candidate) for row, each in entries] == [(2, "a")]
    assert [each.reason for each in aside] == [
        "unknown candidate 'c'; the pool's row 4: y: '<1E-10' is a bound, expected a number, so it was kept aside",
        "unknown candidate 'd'; it is not in the pool",
        "it names no candidate",
    ]


def test_packed_semicolons_and_byte_order_mark(tmp_path):
    file = tmp_path / "pool.csv.gz"
    file.write_bytes(gzip.compress("\ufeffT;y\n1;2\n2;\n".encode()))
    assert len(open_pool(file, CampaignConfig.of(Y)).candidates) == 2


@pytest.mark.parametrize(
    ("text", "settings", "error", "message"),
    [
        ("", {}, DataError, "is empty"),
        ("T,y\n", {}, DataError, "holds no candidate that can be used; expected one candidate a row"),
        ("T,T,y\n1,2,3\n", {}, DataError, "has the column 'T' twice"),
        ("T,z\n1,2\n", {}, SettingError, "has no column 'y'; it has T, z"),
        ("T,y\n1,2\n", {"inputs": "smiles"}, SettingError, "no column named smiles; name it with --column"),
        ("T,y\n1,2\n", {"cost": "price"}, SettingError, "has no column 'price'"),
        ('T,y\n"1,2\n3,4\n', {}, DataError, "line 3: unexpected end of data; close the quotes"),
    ],
)
def test_a_pool_that_cannot_be_used_gets_one_line(tmp_path, text, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        read(tmp_path, text, **settings)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        open_pool(tmp_path / "none.csv", CampaignConfig.of(Y))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00y")
    with pytest.raises(DataError, match="not UTF-8"):
        open_pool(tmp_path / "bytes.csv", CampaignConfig.of(Y))
    packed = bytearray(gzip.compress(b"T,y\n" + b"1,2\n" * 2000))
    packed[15:25] = b"\xff" * 10
    (tmp_path / "damaged.csv.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"cannot read .*damaged.csv.gz: .*; allow reading it, or copy it anew"):
        open_pool(tmp_path / "damaged.csv.gz", CampaignConfig.of(Y))
