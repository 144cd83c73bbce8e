"""Chest X-rays whose classes come from different sources: reading, holding out, and pictures with exchanged frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everlearn.bench.explain_pictures import read_meta
from everlearn.bench.lungs import UNet, dice, learn_masks, masks_of
from everlearn.data import read_picture
from everlearn.data.naming import classes_of
from everlearn.data.pictures import Files
from everlearn.data.regions import Regions
from everlearn.errors import DataError

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Pictures:
    """Pictures of one kind.

    Parameters
    ----------
    inputs : Tensor
        ``[n, 1, S, S]`` uint8.
    labels : Tensor
        ``[n]``; −1 where the label is none of the classes.
    regions : Tensor
        ``[n, 1, S, S]`` bool: the lungs.
    boxes : Tensor
        ``[n, 1, S, S]`` bool: what a radiologist marked as the finding; empty for most.
    """

    inputs: Tensor
    labels: Tensor
    regions: Tensor
    boxes: Tensor

    def select(self, keep: Tensor) -> Pictures:
        """Those at the given positions, or where ``keep`` holds."""
        return Pictures(self.inputs[keep], self.labels[keep], self.regions[keep], self.boxes[keep])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Chest:
    """What table 2 learns and measures on; no patient is in two of the three.

    Parameters
    ----------
    class_names : tuple of str
    learned, test : Pictures
        Of the set with classes; lungs as the U-Net finds them.
    elsewhere : Pictures
        Of the set with lungs; lungs as its authors marked them, boxes where there is no mask.
    masked : Tensor
        ``[n]`` bool: which of ``elsewhere`` have masks.
    dice : float
        Of the U-Net on pictures of ``elsewhere`` that have masks.
    """

    class_names: tuple[str, ...]
    learned: Pictures
    test: Pictures
    elsewhere: Pictures
    masked: Tensor
    dice: float


def read_chest(data: Path, lungs: Path, size: int, scratch: Path, most: int | None = None, epochs: int = 20) -> Chest:
    """Read both sets, hold out whole patients, and mark the lungs in what is learned.

    Held out are all patients with a box of a finding and a fifth of the others of each class. The U-Net learns the
    masks of patients that are learned, and of half of those that only the second set has; the rest is ``elsewhere``.

    Parameters
    ----------
    data, lungs : Path
        Folders in the form of ``meta.jsonl``: ``file``, ``label``, ``origin``, a patient; ``boxes``; ``mask``, or
        ``lung_boxes``. Pictures with the same origin are the same.
    size : int
        Pixels a side.
    scratch : Path
        Safetensors file where the U-Net is kept.
    most : int, optional
        Pictures of each class, at most.
    epochs : int
        Of the U-Net.

    Raises
    ------
    DataError
        If a folder has no such pictures.
    """
    rows, marked = _rows(data, "classes"), _rows(lungs, "lungs")
    if not any(row.get("mask") for row in marked):
        raise DataError(f"{lungs} has no masks in meta.jsonl; expected a set with lungs marked")
    person = {row.get("origin"): _patient(row) for row in marked}
    patients = np.array([person.get(row.get("origin"), f"of the first set: {_patient(row)}") for row in rows])
    names, labels = classes_of([row["label"] for row in rows])
    test = _held_out(labels, patients, np.array([bool(row.get("boxes")) for row in rows]))
    keep = _first(labels, test, most)
    rows, labels, test, patients = [rows[i] for i in keep], labels[keep], test[keep], patients[keep]
    learned, others = _seen(marked, set(patients[~test].tolist()), set(patients[test].tolist()))
    far = [marked[i] for i in others]
    there, near = (
        _pictures(lungs, far, [_class(row["label"], names) for row in far], size),
        [marked[i] for i in learned],
    )
    network = _network(lungs, near, scratch, size, epochs)
    known = _pictures(data, rows, labels.tolist(), size)
    known = Pictures(known.inputs, known.labels, masks_of(network, known.inputs), known.boxes)
    masked = torch.tensor([bool(row.get("mask")) for row in far])
    fits = dice(masks_of(network, there.inputs[masked]), there.regions[masked])
    held = torch.from_numpy(test)
    return Chest(names, known.select(~held), known.select(held), there, masked, float(fits.mean()))


def in_frames_of(pictures: Pictures, frames: Tensor) -> Tensor:
    """Picture i in the box around its own lungs, and ``frames[i]`` around that box.

    Parameters
    ----------
    pictures : Pictures
        n of them.
    frames : Tensor
        ``[n, 1, S, S]`` uint8.

    Returns
    -------
    Tensor
        ``[n, 1, S, S]`` uint8.
    """
    found = frames.clone()
    for i in range(len(pictures)):
        top, bottom, left, right = bounds(pictures.regions[i, 0])
        found[i, :, top:bottom, left:right] = pictures.inputs[i, :, top:bottom, left:right]
    return found


def without(pictures: Pictures, part: str) -> Tensor:
    """The pictures with the box around their lungs (``"lungs"``) or all else (``"frame"``) in their own mean grey."""
    grey = pictures.inputs.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(pictures.inputs)
    return (
        in_frames_of(pictures, grey)
        if part == "frame"
        else in_frames_of(replace(pictures, inputs=grey), pictures.inputs)
    )


def bounds(region: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a region ``[H, W]``; of the middle half of the picture where it is empty.

    Examples
    --------
    >>> bounds(torch.tensor([[False, True], [False, True]])), bounds(torch.zeros(8, 8, dtype=torch.bool))
    ((0, 2, 1, 2), (2, 6, 2, 6))
    """
    if not region.any():
        h, w = region.shape
        return h // 4, h - h // 4, w // 4, w - w // 4
    rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _rows(folder: Path, what: str) -> list[dict[str, Any]]:
    if not (folder / "meta.jsonl").is_file():
        raise DataError(f"{folder} has no meta.jsonl; expected the set with {what} in the form of unpacked sets")
    rows = [row for row in read_meta(folder) if "label" in row]
    if not rows:
        raise DataError(f"{folder / 'meta.jsonl'} names no picture with a label")
    return rows


def _patient(row: dict[str, Any]) -> str:
    known = row.get("patient", row.get("patientid"))
    return str(row.get("origin", row["file"]) if known is None else known)


def _held_out(labels: np.ndarray, patients: np.ndarray, boxed: np.ndarray) -> np.ndarray:
    """All patients with a box, and of each class more, drawn with seed 0, until a fifth is held out."""
    rng, test = np.random.default_rng(0), np.isin(patients, patients[boxed])
    for label in np.unique(labels):
        own = labels == label
        for patient in rng.permutation(np.unique(patients[own])):
            if test[own].mean() >= _HELD_OUT:
                break
            test |= patients == patient
    return test


def _first(labels: np.ndarray, test: np.ndarray, most: int | None) -> np.ndarray:
    """Positions of at most so many of each class, and a fourth of that held out, spread over the set."""
    found = []
    for label in np.unique(labels):
        for part, count in ((False, most), (True, most and -(-most // 4))):
            own = np.flatnonzero((labels == label) & (test == part))
            found.append(
                own if not count or len(own) <= count else own[np.linspace(0, len(own) - 1, count).astype(int)]
            )
    return np.sort(np.concatenate(found))


def _seen(marked: Sequence[dict[str, Any]], learned: set[str], test: set[str]) -> tuple[list[int], list[int]]:
    """Rows for the U-Net, which have masks, and rows for measuring: patients that nothing has learned from."""
    others = sorted({_patient(row) for row in marked} - learned - test)
    half = set(np.random.default_rng(0).permutation(others)[: len(others) // 2].tolist())
    near = [i for i, row in enumerate(marked) if _patient(row) in learned | half and row.get("mask")]
    return near, [i for i, row in enumerate(marked) if _patient(row) not in learned | half]


def _class(label: str, names: Sequence[str]) -> int:
    """The class of a finding of the second set: −1 where it is unknown or none of the classes."""
    text = label.lower()
    if text in ("todo", "unknown", ""):
        return -1
    kind = "covid" if "covid" in text else "no" if text.startswith("no finding") else "pneumonia"
    return next((i for i, name in enumerate(names) if name.lower().startswith(kind)), -1)


def _pictures(folder: Path, rows: Sequence[dict[str, Any]], labels: Sequence[int], size: int) -> Pictures:
    inputs = torch.from_numpy(np.stack([read_picture(folder / row["file"], 1, size) for row in rows]))
    lungs = [row.get("mask") or _boxes(row, "lung_boxes") for row in rows]
    files = Files(folder.resolve(), [row["file"] for row in rows])
    found = []
    for marks in (lungs, [_boxes(row, "boxes") for row in rows]):
        regions = Regions(folder.resolve(), marks, files)
        empty = np.zeros((1, size, size), np.uint8)
        read = [regions.read(i, (size, size)) if mark else empty for i, mark in enumerate(marks)]
        found.append(torch.from_numpy(np.stack(read)) > 127)
    return Pictures(inputs, torch.tensor(labels), *found)


def _boxes(row: dict[str, Any], key: str) -> tuple[tuple[float, float, float, float], ...]:
    return tuple((float(x0), float(y0), float(x1), float(y1)) for _, x0, y0, x1, y1 in row.get(key, []))


def _network(folder: Path, rows: Sequence[dict[str, Any]], file: Path, size: int, epochs: int) -> UNet:
    """The U-Net of an earlier call, or a new one."""
    network = UNet()
    if file.exists():
        network.load_state_dict(load_file(file))
        return network.eval()
    known = _pictures(folder, rows, [0] * len(rows), size)
    network = learn_masks(known.inputs, known.regions.to(torch.uint8) * 255, epochs)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return network
