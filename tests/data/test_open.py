"""Opening sources: folders, shape, hold-out, and a line for everything that is not one."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from everlearn.data import Columns, load, open_source, read_picture
from everlearn.data.holdout import hold_out
from everlearn.data.naming import natural_key
from everlearn.errors import DataError, EverlearnError, SettingError


def save(path, colour=(10, 20, 30), size=(16, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def folder_of(root, classes=("cat", "dog"), n=5, **options):
    for c, name in enumerate(classes):
        for i in range(n):
            save(root / name / f"{i}.png", (c * 40, i * 10, 7), **options)
    return root


def error_of(spec, kind=DataError, **options):
    with pytest.raises(EverlearnError) as caught:
        open_source(spec, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_classes(tmp_path):
    source = open_source(folder_of(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0] * 5 + [1] * 5
    assert list(source.names[:2]) == ["cat/0.png", "cat/1.png"]
    assert source.shape == (3, 16, 16)
    assert source.read(6)[:, 0, 0].tolist() == [40, 10, 7]
    assert source.test.sum() == 2


def test_classes_and_files_in_natural_order(tmp_path):
    folder_of(tmp_path, ["class10", "class2", "Class1"], n=11)
    source = open_source(tmp_path)
    assert source.class_names == ("Class1", "class2", "class10")
    assert [name.split("/")[1] for name in source.names[:11]] == [f"{i}.png" for i in range(11)]


@given(st.lists(st.text(alphabet="ab01²٣. ", max_size=6)))
def test_natural_order_is_a_total_order(names):
    backwards = sorted(names, reverse=True)
    assert sorted(backwards, key=natural_key) == sorted(names, key=natural_key)


def test_train_and_test_folders_are_kept(tmp_path):
    folder_of(tmp_path / "train", n=4)
    folder_of(tmp_path / "test", n=3)
    source = open_source(tmp_path)
    assert source.test.tolist() == [False] * 8 + [True] * 6
    assert source.names[8] == "test/cat/0.png"


def test_validation_stands_in_for_a_missing_test_part_and_is_else_left_aside(tmp_path):
    folder_of(tmp_path / "Train", n=4)
    folder_of(tmp_path / "val", n=3)
    assert open_source(tmp_path).test.sum() == 6
    folder_of(tmp_path / "test", n=2)
    source = open_source(tmp_path)
    assert len(source) == 12 and source.test.sum() == 4
    assert not any(name.startswith("val") for name in source.names)
    assert source.read(11)[:, 0, 0].tolist() == [40, 10, 7]  # test/dog/1.png


def test_all_folder_beside_masks_and_notes(tmp_path):
    folder_of(tmp_path / "all")
    save(tmp_path / "masks" / "0.png")
    (tmp_path / "meta.jsonl").write_text("{}")
    assert open_source(tmp_path).class_names == ("cat", "dog")


def test_a_class_may_be_called_test(tmp_path):
    assert open_source(folder_of(tmp_path, ["test", "train"])).class_names == ("test", "train")


def test_hidden_files_other_files_and_suffixes_in_capitals(tmp_path):
    folder_of(tmp_path)
    save(tmp_path / "cat" / ".hidden.png")
    save(tmp_path / ".git" / "a.png")
    (tmp_path / "cat" / "notes.txt").write_text("text")
    save(tmp_path / "cat" / "deeper" / "LAST.JPG")
    names = list(open_source(tmp_path).names)
    assert len(names) == 11 and "cat/deeper/LAST.JPG" in names


def test_links_within_the_folder_are_followed_and_others_refused(tmp_path):
    folder_of(tmp_path / "data")
    (tmp_path / "data" / "dog" / "same.png").symlink_to(tmp_path / "data" / "cat" / "0.png")
    assert len(open_source(tmp_path / "data")) == 11
    save(tmp_path / "secret.png")
    (tmp_path / "data" / "dog" / "x.png").symlink_to(tmp_path / "secret.png")
    assert "is a link that leaves" in error_of(tmp_path / "data")
    (tmp_path / "data" / "dog" / "x.png").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "emu").symlink_to(tmp_path / "elsewhere")
    assert "is a link that leaves" in error_of(tmp_path / "data")


def test_a_link_put_in_later_is_not_read(tmp_path):
    source = open_source(folder_of(tmp_path / "data"))
    save(tmp_path / "secret.png")
    (tmp_path / "data" / "cat" / "0.png").unlink()
    (tmp_path / "data" / "cat" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="lies outside"):
        source.read(0)


def test_a_link_in_a_circle_ends(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert "is a link to a folder above it" in error_of(tmp_path)


def test_size_is_the_common_one_of_small_squares_else_224(tmp_path):
    folder_of(tmp_path / "a", size=(96, 96))
    folder_of(tmp_path / "b", size=(96, 80))
    folder_of(tmp_path / "c", size=(300, 300))
    assert [open_source(tmp_path / name).shape[1:] for name in "abc"] == [(96, 96), (224, 224), (224, 224)]
    save(tmp_path / "a" / "cat" / "9.png", size=(95, 95))
    assert open_source(tmp_path / "a").shape[1:] == (224, 224)
    assert open_source(tmp_path / "a", size=32, channels=1).shape == (1, 32, 32)


def test_one_channel_if_all_are_grey(tmp_path):
    folder_of(tmp_path)
    for file in tmp_path.rglob("*.png"):
        Image.open(file).convert("L").convert("RGB").save(file)
    assert open_source(tmp_path).shape[0] == 1
    save(tmp_path / "cat" / "colour.png")
    assert open_source(tmp_path).shape[0] == 3


def test_kinds_of_pictures_mixed_come_in_one_shape(tmp_path):
    folder_of(tmp_path)
    save(tmp_path / "cat" / "grey.png", 90, mode="L")
    save(tmp_path / "cat" / "cmyk.tif", (0, 0, 0, 255), mode="CMYK")
    save(tmp_path / "dog" / "alpha.png", (1, 2, 3, 200), mode="RGBA")
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(tmp_path / "dog" / "deep.png")
    source = open_source(tmp_path)
    inputs, labels, kept = load(source, np.arange(len(source)))
    assert inputs.shape == (14, 3, 16, 16) and len(kept) == 14 and labels.tolist() == source.labels.tolist()


def test_unreadable_pictures_among_readable_ones_do_not_stop_opening(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"broken")
    source = open_source(tmp_path)
    inputs, labels, kept = load(source, np.arange(3))
    assert kept.tolist() == [1, 2] and len(inputs) == len(labels) == 2


def test_what_is_no_source_gets_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it is empty" in error_of(tmp_path / "empty")
    assert "one class only, 'cat'" in error_of(folder_of(tmp_path / "one", ["cat"]))
    save(tmp_path / "loose" / "a.png")
    assert "pictures without a class" in error_of(tmp_path / "loose")
    (tmp_path / "loose.dcm").mkdir()
    (tmp_path / "loose.dcm" / "a.dcm").touch()
    assert "CSV of labels" in error_of(tmp_path / "loose.dcm")
    (folder_of(tmp_path / "hollow") / "emu").mkdir()
    assert "class folder emu holds no picture" in error_of(tmp_path / "hollow")
    folder_of(tmp_path / "tests" / "train", n=1)
    save(tmp_path / "a.png")
    assert "is one picture; expected a folder of classes" in error_of(tmp_path / "a.png")
    (tmp_path / "a.xyz").touch()
    assert "a file of another kind" in error_of(tmp_path / "a.xyz")
    for name in ("a.csv", "a.npz", "a.parquet"):
        (tmp_path / name).mkdir()
        assert "is a folder; expected" in error_of(tmp_path / name)


def test_a_missing_path_names_what_comes_near(tmp_path):
    folder_of(tmp_path / "xrays")
    assert "did you mean xrays?" in error_of(tmp_path / "xray")
    assert "does not exist; expected a folder of classes" in error_of(tmp_path / "quite-other")
    assert "nor does the folder" in error_of(tmp_path / "no" / "way")


def test_no_readable_picture_at_all(tmp_path):
    folder_of(tmp_path)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"broken")
    message = error_of(tmp_path, size=32, channels=3)
    assert "of 10 pictures tried none can be read" in message and "cat/0.png" in message


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size is 0"),
        ({"size": 5000}, "size is 5000"),
        ({"channels": 2}, "channels is 2"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"holdout": -0.1}, "holdout is -0.1"),
        ({"labels": "a.csv"}, "labels is given"),
        ({"columns": Columns()}, "columns is given"),
        ({"root": "."}, "root is given"),
    ],
)
def test_options_out_of_range_or_of_no_use(options, message):
    assert message in error_of("builtin:digits", SettingError, **options)


def test_read_picture_as_the_source_reads_it(tmp_path):
    source = open_source(folder_of(tmp_path), size=12)
    assert np.array_equal(read_picture(tmp_path / "cat" / "3.png", 3, 12), source.read(3))
    with pytest.raises(DataError, match="is a folder"):
        read_picture(tmp_path, 3, 12)
    with pytest.raises(SettingError, match="channels is 4"):
        read_picture(tmp_path / "cat" / "3.png", 4, 12)


def test_a_source_can_be_sent_to_another_process(tmp_path):
    source = open_source(folder_of(tmp_path))
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read(6), source.read(6))


def test_holding_out_nothing(tmp_path):
    assert not open_source(folder_of(tmp_path), holdout=0).test.any()


labelled = st.lists(st.integers(0, 4), min_size=2, max_size=120).map(lambda labels: np.array(labels, dtype=np.int64))


@given(labels=labelled, share=st.floats(0.01, 0.9), seed=st.integers(0, 5))
def test_hold_out_takes_its_share_of_every_class(labels, share, seed):
    test = hold_out(labels, share, seed=seed)
    assert np.array_equal(test, hold_out(labels, share, seed=seed))
    for code in np.unique(labels):
        n, held = (labels == code).sum(), test[labels == code].sum()
        assert held == (min(max(1, round(n * share)), n - 1) if n > 1 else 0)


@given(labels=labelled, seed=st.integers(0, 5), n_sites=st.integers(1, 4))
def test_hold_out_is_spread_over_sites(labels, seed, n_sites):
    sites = np.arange(len(labels)) % n_sites
    test = hold_out(labels, 0.25, seed=seed, strata=sites)
    for code in np.unique(labels):
        share = test[labels == code].mean()
        for site in range(n_sites):
            here = (labels == code) & (sites == site)
            assert abs(test[here].sum() - share * here.sum()) < 1 + 1e-9


@settings(deadline=None)
@given(labels=labelled, seed=st.integers(0, 5), n_patients=st.integers(1, 30))
def test_patients_stay_whole(labels, seed, n_patients):
    patients = np.array([f"p{i % n_patients}" for i in range(len(labels))])
    test = hold_out(labels, 0.2, seed=seed, patients=patients)
    for patient in np.unique(patients):
        assert len(set(test[patients == patient])) == 1
    for code in np.unique(labels):  # never a class without a sample to learn
        assert (~test[labels == code]).any()


def test_patients_give_about_the_share():
    random = np.random.default_rng(0)
    patients = np.array([f"p{i}" for i in random.integers(0, 300, 1000)])
    labels = random.integers(0, 3, 1000)
    test = hold_out(labels, 0.2, patients=patients)
    for code in range(3):
        assert 0.15 < test[labels == code].mean() < 0.27


def test_samples_without_a_patient_are_each_their_own():
    labels, patients = np.repeat([0, 1], 10), np.array([""] * 20)
    assert hold_out(labels, 0.2, patients=patients).sum() == 4
