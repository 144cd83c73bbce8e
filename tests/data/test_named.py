"""Sets by name, from small local files in their own formats."""

import gzip
import struct
import sys
import types

import numpy as np
import pytest

from everlearn.data import class_incremental, open_source
from everlearn.data.named import cache_folder
from everlearn.errors import DataError


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root, name, zipped=False):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 20)):
        pictures = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            (raw / f"{part}-{kind}-ubyte").write_bytes(idx(array))
            (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return raw


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvision_reads_files_that_are_there(tmp_path, name):
    raw = mnist(tmp_path, name)
    source = open_source(f"torchvision:{name}", root=tmp_path)
    assert source.shape == (1, 28, 28) and len(source) == 60 and source.test.sum() == 20
    assert len(source.class_names) == 10 and source.in_memory
    first = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, 784, offset=16).reshape(28, 28)
    assert np.array_equal(source.read(40)[0], first)
    assert source.names[40] == "test[0]"
    assert len(class_incremental(source)) == 40


def test_torchvision_svhn_has_channels_first(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    labels = (np.arange(12)[:, None] % 10 + 1).astype(np.uint8)  # its digit 0 is stored as 10
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pictures, "y": labels})
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)  # the stand-in has another checksum
    source = open_source("torchvision:SVHN", root=tmp_path)
    assert source.shape == (3, 32, 32) and len(source) == 24
    assert np.array_equal(source.read(5), pictures[..., 5].transpose(2, 0, 1))
    assert source.class_names[source.labels[9]] == "0"


def test_torchvision_without_files_and_network(tmp_path, monkeypatch):
    import urllib.request

    def offline(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name in ("MNIST", "CIFAR10"):
        with pytest.raises(DataError, match=r"cannot be downloaded \(.*\); check the network") as caught:
            open_source(f"torchvision:{name}", root=tmp_path)
        assert "\n" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(DataError, match="there is no torchvision:ImageNet; expected one of CIFAR10"):
        open_source("torchvision:ImageNet")
    with pytest.raises(DataError, match="there is no builtin:letters; expected builtin:digits"):
        open_source("builtin:letters")


def medmnist_file(root, name="somemnist"):
    images, labels = np.zeros((6, 28, 28), np.uint8), np.arange(6)[:, None] % 2
    np.savez(root / f"{name}.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def test_medmnist_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match=r"pip install 'everlearn\[medmnist\]'"):
        open_source("medmnist:SomeMNIST", root=tmp_path)
    medmnist_file(tmp_path)
    assert open_source("medmnist:SomeMNIST", root=tmp_path).class_names == ("0", "1")


def test_medmnist_with_its_package(tmp_path, monkeypatch):
    class SomeMNIST:
        """Downloads as the package's classes do: into root, by the set's flag."""

        def __init__(self, split, download, root):
            from pathlib import Path

            assert download
            medmnist_file(Path(root))

    class OtherMNIST:
        def __init__(self, **_):
            raise RuntimeError("Something went wrong when downloading!\nGo to the homepage")

    package = types.ModuleType("medmnist")
    package.SomeMNIST, package.OtherMNIST = SomeMNIST, OtherMNIST
    label = {"1": "pneumonia", "0": "normal"}
    package.INFO = {
        "somemnist": {"python_class": "SomeMNIST", "label": label},
        "othermnist": {"python_class": "OtherMNIST", "label": label},
    }
    monkeypatch.setitem(sys.modules, "medmnist", package)
    source = open_source("medmnist:SomeMNIST", root=tmp_path / "new")
    assert source.class_names == ("normal", "pneumonia") and source.test.sum() == 6
    with pytest.raises(DataError, match=r"cannot be downloaded \(Something went wrong when downloading! Go") as caught:
        open_source("medmnist:othermnist", root=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no medmnist:third; expected one of somemnist, othermnist"):
        open_source("medmnist:third", root=tmp_path)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "everlearn"


def test_digits_are_scaled_and_the_same_fifth_is_held_out():
    from sklearn.datasets import load_digits

    source = open_source("builtin:digits", seed=5, holdout=0.5)
    assert np.array_equal(source.test, open_source("builtin:digits").test)
    digits = load_digits()
    assert np.array_equal(source.read(100)[0], np.rint(digits.images[100] * 255 / 16))
    assert source.labels.tolist() == digits.target.tolist()
    for digit in range(10):
        assert abs(source.test[source.labels == digit].mean() - 0.2) < 0.005
