"""Public sets by name: torchvision's and MedMNIST's, from files that are there or over the network."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.data.npz import list_npz
from everlearn.data.pictures import TEST, TRAIN, Arrays, Listing
from everlearn.errors import DataError

# how torchvision asks for the two parts: by a flag or by name
_TORCHVISION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{
        name: ({"train": True}, {"train": False}) for name in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST")
    },
    **{name: ({"split": "train"}, {"split": "test"}) for name in ("STL10", "SVHN")},
}


def cache_folder() -> Path:
    """Where sets are kept that come over the network, if no folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everlearn"


def list_torchvision(name: str, root: Path | None = None) -> Listing:
    """List one of torchvision's sets that fit in memory, its own test part held out.

    Files that lie in ``root`` as torchvision puts them are used; otherwise torchvision downloads them there. Its files
    of CIFAR are pickles: torchvision opens them only if their checksum is the published one.

    Parameters
    ----------
    name : str
        CIFAR10, CIFAR100, MNIST, FashionMNIST, KMNIST, STL10 or SVHN.
    root : Path, optional
        By default `cache_folder`.

    Raises
    ------
    DataError
        If there is no such set, or its files are neither there nor to be had.
    """
    if name not in _TORCHVISION:
        raise DataError(f"there is no torchvision:{name}; expected one of {', '.join(_TORCHVISION)}, or a class folder")
    parts = [_torchvision(name, root or cache_folder(), options) for options in _TORCHVISION[name]]
    labels = [np.asarray(getattr(part, "targets", None) if hasattr(part, "targets") else part.labels) for part in parts]
    codes = np.concatenate(labels).astype(np.int64)
    class_names = getattr(parts[0], "classes", None) or [str(code) for code in range(int(codes.max()) + 1)]
    return Listing(
        name=f"torchvision:{name}",
        pictures=Arrays(tuple(_channels_last(part.data) for part in parts)),
        names=[f"{part}[{i}]" for part, own in zip(("train", "test"), labels) for i in range(len(own))],
        labels=codes,
        class_names=tuple(class_names),
        split=np.repeat(np.array([TRAIN, TEST], dtype=np.int8), [len(own) for own in labels]),
    )


def list_medmnist(name: str, root: Path | None = None) -> Listing:
    """List one of MedMNIST's 2D sets of one label per picture, with its classes' names where the package is installed.

    Parameters
    ----------
    name : str
        As MedMNIST calls it: PneumoniaMNIST, or pneumoniamnist.
    root : Path, optional
        Where ``pneumoniamnist.npz`` lies or is downloaded to; by default `cache_folder`.

    Raises
    ------
    DataError
        If the file is not there and cannot be had, or is not of one label per picture.
    """
    flag, folder = name.lower(), root or cache_folder()
    file = folder / f"{flag}.npz"
    try:
        package = importlib.import_module("medmnist")
    except ImportError:
        if file.is_file():
            return list_npz(file)
        raise DataError(
            f"medmnist:{name} needs the package medmnist (pip install 'everlearn[medmnist]') or the file {file}"
        ) from None
    if flag not in package.INFO:
        raise DataError(f"there is no medmnist:{name}; expected one of {', '.join(package.INFO)}")
    info = package.INFO[flag]
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            getattr(package, info["python_class"])(split="train", download=True, root=str(folder))
        except Exception as error:  # the package raises whatever its download meets
            raise DataError(_unavailable(f"medmnist:{name}", folder, error)) from None
    names = [label for _, label in sorted(info["label"].items(), key=lambda item: int(item[0]))]
    return list_npz(file, names)


def _torchvision(name: str, root: Path, options: dict[str, Any]) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        return kind(str(root), download=False, **options)
    except Exception:  # not there, or incomplete: torchvision raises RuntimeError, OSError and others
        try:
            return kind(str(root), download=True, **options)
        except Exception as error:
            raise DataError(_unavailable(f"torchvision:{name}", root, error)) from None


def _unavailable(name: str, root: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{name} is not in {root} and cannot be downloaded ({reason}); check the network or put its files there"


def _channels_last(data: Any) -> NDArray[np.uint8]:
    pixels = np.asarray(data)
    if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[3] != 3:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    if pixels.dtype != np.uint8:
        raise DataError(f"the set's pictures are {pixels.dtype}; expected uint8")
    return pixels
