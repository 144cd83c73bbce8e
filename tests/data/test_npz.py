"""Array files with MedMNIST's keys."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from everlearn.data import load, open_source
from everlearn.data.npz import list_npz
from everlearn.errors import DataError

RANDOM = np.random.default_rng(0)


def arrays(n=6, colour=False, flat=False, parts=("train", "val", "test")):
    found = {}
    for part in parts:
        found[f"{part}_images"] = RANDOM.integers(0, 256, (n, 12, 12, 3) if colour else (n, 12, 12), dtype=np.uint8)
        labels = (np.arange(n) % 2).astype(np.uint8)
        found[f"{part}_labels"] = labels if flat else labels[:, None]
    return found


def save(folder, held):
    np.savez_compressed(folder / "set.npz", **held)
    return folder / "set.npz"


def error_of(file, **options):
    with pytest.raises(DataError) as caught:
        list_npz(file, **options)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_pictures_come_back_to_the_byte(tmp_path, colour, flat):
    held = arrays(colour=colour, flat=flat)
    source = open_source(save(tmp_path, held))
    assert source.shape == (3 if colour else 1, 12, 12) and source.in_memory
    assert source.test.tolist() == [False] * 6 + [True] * 6  # validation is left aside
    assert source.names[7] == "test[1]"
    pictures = np.concatenate([held["train_images"], held["test_images"]])
    expected = pictures.transpose(0, 3, 1, 2) if colour else pictures[:, None]
    assert np.array_equal(load(source, np.arange(12))[0].numpy(), expected)


def test_without_a_test_part(tmp_path):
    source = open_source(save(tmp_path, arrays(parts=("train", "val"))))
    assert len(source) == 12 and source.test[6:].all()
    source = open_source(save(tmp_path, arrays(n=10, parts=("train",))))
    assert len(source) == 10 and source.test.sum() == 2


def test_another_size_and_colour(tmp_path):
    source = open_source(save(tmp_path, arrays()), size=28, channels=3)
    assert source.read(0).shape == (3, 28, 28)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_labels": np.zeros((6, 14), np.uint8)}, "14 labels for each picture; expected one"),
        ({"train_labels": np.zeros((6, 1), np.float32)}, "expected whole numbers"),
        ({"train_labels": np.zeros((5, 1), np.uint8)}, "for 6 pictures"),
        ({"train_images": np.zeros((6, 12, 12), np.float32)}, "float32 [6, 12, 12]; expected uint8"),
        ({"train_images": np.zeros((6, 12, 12, 12), np.uint8)}, "expected uint8 [N, H, W] or [N, H, W, 3]"),
        ({"train_images": np.zeros((6, 0, 12), np.uint8)}, "expected uint8"),
    ],
)
def test_other_arrays_are_refused(tmp_path, change, message):
    assert message in error_of(save(tmp_path, arrays() | change))


def test_missing_keys(tmp_path):
    assert "has data, label; expected train_images" in error_of(save(tmp_path, {"data": [1], "label": [2]}))
    held = arrays()
    del held["test_labels"]
    assert "has test_images but no test_labels" in error_of(save(tmp_path, held))


def test_names_must_fit_the_labels(tmp_path):
    file = save(tmp_path, arrays())
    assert list_npz(file, ["normal", "ill"]).class_names == ("normal", "ill")
    assert "has labels 0 to 1; expected 0 to 0" in error_of(file, class_names=["normal"])


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    held = arrays()
    held["train_labels"] = np.array([Trap()] * 6, dtype=object)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name, array in held.items():
            data = io.BytesIO()
            np.lib.format.write_array_header_1_0(data, np.lib.format.header_data_from_array_1_0(array))
            data.write(pickle.dumps(array) if array.dtype == object else array.tobytes())
            archive.writestr(name + ".npy", data.getvalue())
    assert "cannot be read as .npz" in error_of(tmp_path / "set.npz")


def test_arrays_too_large_are_refused_by_their_headers(tmp_path):
    file = save(tmp_path, arrays())
    assert "the limit is 100" in error_of(file, max_bytes=100)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("train_images", (10**9, 28, 28)), ("train_labels", (10**9,))):
            data = io.BytesIO()
            np.lib.format.write_array_header_1_0(data, {"descr": "|u1", "fortran_order": False, "shape": shape})
            archive.writestr(name + ".npy", data.getvalue())
    assert "its arrays take 785,000,000,000 bytes" in error_of(tmp_path / "bomb.npz")


@pytest.mark.parametrize("cut", [0, 1, 50, 400])
def test_damaged_files(tmp_path, cut):
    file = save(tmp_path, arrays())
    file.write_bytes(file.read_bytes()[:cut])
    assert "cannot be read as .npz" in error_of(file)


def test_a_damaged_member(tmp_path):
    file = save(tmp_path, arrays())
    data = bytearray(file.read_bytes())
    data[200:260] = bytes(60)
    file.write_bytes(data)
    assert "cannot be read as .npz" in error_of(file)
