"""Pictures for the table of explainers: folders with ``meta.jsonl``, of which COCO's boxes carry ImageNet's classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from everlearn.data.decode import plain
from everlearn.data.pictures import look_at_file
from everlearn.errors import DataError
from everlearn.metrics.confidence import outputs, probabilities
from everlearn.metrics.localisation import box_regions

_SURE = 0.1  # probability above which the model is said to see a marked class
_SUFFIXES = {".jpg", ".jpeg", ".png"}
# COCO's class → the classes of ImageNet-1k that are of its kind
IMAGENET = {
    1: (444, 671), 2: (436, 468, 511, 609, 627, 656, 751, 817), 3: (665, 670), 4: (404, 895), 5: (654, 779, 874), 6:
    (466, 547, 705, 820), 7: (555, 569, 675, 717, 864, 867), 8: (472, 484, 554, 576, 625, 814, 914), 9: (920,), 11:
    (919,), 12: (704,), 13: (703,), 14: (*range(7, 25), *range(80, 101), *range(127, 147)), 15: tuple(range(281,
    286)), 16: tuple(range(151, 269)), 17: (339,), 18: (348, 349), 19: (345,), 20: (101, 385, 386), 21: (294, 295,
    296, 297), 22: (340,), 24: (414,), 25: (879,), 27: (457, 906), 30: (795,), 32: (430, 522, 574, 722, 768, 805, 852,
    890), 38: (752,), 39: (440, 737, 898, 907), 40: (572,), 41: (504, 968), 45: (659, 809), 46: (954,), 47: (948,),
    49: (950,), 50: (937,), 52: (934,), 53: (963,), 56: (423, 559, 765), 57: (831,), 58: (738,), 59: (564,), 60:
    (532,), 61: (861,), 62: (664, 851), 63: (620, 681), 64: (673,), 65: (761,), 66: (508,), 67: (487,), 68: (651,),
    70: (859,), 71: (896,), 72: (760,), 74: (409, 892), 75: (883,), 77: (850,),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One picture of the table.

    Parameters
    ----------
    name : str
        Set and file.
    inputs : Tensor
        ``[1, C, H, W]``, normalised.
    target : Tensor
        ``[1]``: the class to explain.
    region : Tensor or None
        ``[1, 1, H, W]`` bools: where that class is marked.
    """

    name: str
    inputs: Tensor
    target: Tensor
    region: Tensor | None


def table_pictures(folder: Path, model: nn.Module, size: int, count: int) -> list[Picture]:
    """Pictures of a set, or of each set in a folder of sets: at most ``count`` of each.

    Of a set with COCO's boxes those pictures are used in which the model sees a marked class (probability over 0.1);
    its best one is explained, and of these pictures every second one, from the second on: the others served to tune
    `FrugalSISE`. Of other sets the held-out pictures are used, spread over the classes, and the predicted class.

    Raises
    ------
    DataError
        If there are no pictures, or a file cannot be read.
    """
    check_folder(folder)
    sets = [folder] if (folder / "meta.jsonl").exists() else sorted(p.parent for p in folder.glob("*/meta.jsonl"))
    found = []
    for each in sets or [folder]:
        rows = read_meta(each)
        marked = [row for row in rows if any(box[0] in IMAGENET for box in row.get("boxes_cxcywh", []))]
        found += _marked(each, marked, model, size)[1::2][:count] if marked else _named(each, rows, model, size, count)
    if not found:
        raise DataError(f"{folder} holds no picture that can be used; expected class folders, or boxes in meta.jsonl")
    return found


def check_folder(folder: Path) -> None:
    """Refuse what is no folder, before anything is fetched for it."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with meta.jsonl and pictures, or a folder of such")


def read_meta(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``meta.jsonl``; without it, one for each picture of the class folders."""
    file = folder / "meta.jsonl"
    if not file.exists():
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
        return [{"file": str(p.relative_to(folder)), "label": p.parent.name} for p in found]
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: no JSON; repair or remove the line") from error
        if not isinstance(row, dict) or "file" not in row:
            raise DataError(f"{file}, line {number}: no 'file'; expected an object that names its picture")
        rows.append(row)
    return rows


def normalised(file: Path, size: int) -> Tensor:
    """The whole picture as ``[1, 3, size, size]`` in −1..1: squeezed, not cropped, so that boxes stay in place."""
    image = plain(look_at_file(file)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return probabilities(outputs(model, x))


def _marked(folder: Path, rows: Sequence[dict[str, Any]], model: nn.Module, size: int) -> list[Picture]:
    found = []
    for row in rows:
        x = normalised(folder / row["file"], size)
        p = _predicted(model, x)[0]
        kinds = {int(box[0]) for box in row["boxes_cxcywh"] if box[0] in IMAGENET}
        best, target, kind = max((float(p[t]), t, c) for c in kinds for t in IMAGENET[c])
        if best > _SURE:
            corners = [
                (x0 - w / 2, y0 - h / 2, x0 + w / 2, y0 + h / 2)
                for c, x0, y0, w, h in row["boxes_cxcywh"]
                if int(c) == kind
            ]
            name = f"{folder.name}/{row['file']}"
            found.append(Picture(name, x, torch.tensor([target]), box_regions([corners], size, size)))
    return found


def _named(folder: Path, rows: Sequence[dict[str, Any]], model: nn.Module, size: int, count: int) -> list[Picture]:
    held_out = [row for row in rows if Path(row["file"]).parts[0] == "test"] or list(rows)
    found = []
    for row in held_out[:: max(1, len(held_out) // count)][:count]:
        x = normalised(folder / row["file"], size)
        found.append(Picture(f"{folder.name}/{row['file']}", x, _predicted(model, x).argmax(1), None))
    return found
