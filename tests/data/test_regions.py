"""Regions travel with their samples: from a folder's meta.jsonl or a manifest's column into batches."""

import json

import numpy as np
import pytest
from PIL import Image

from everlearn.data import class_incremental, open_source, shuffled
from everlearn.errors import DataError


def folder_with(folder, rows, size=(16, 16)):
    """Two classes of four pictures; picture i of a class is as bright as 20 i."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", size, 20 * i).save(folder / name / f"{i}.png")
    (folder / "meta.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def mask(file, size=(16, 16), left=8):
    picture = Image.new("L", size)
    picture.paste(255, (0, 0, left, size[1]))
    picture.save(file)


def test_masks_and_boxes_reach_the_batch(tmp_path):
    rows = [
        {"file": "cat/0.png", "label": "cat", "mask": "half.png"},
        {"file": "cat/1.png", "boxes": [["a", 0, 0, 16, 4], ["b", 12, 0, 16, 16]]},
        {"file": "cat/2.png"},
    ]
    folder = folder_with(tmp_path, rows)
    mask(folder / "half.png")
    source = open_source(folder, size=8, holdout=0.0, regions=True)
    assert open_source(folder).regions is None  # nobody asked
    (batch,) = shuffled(source).batches(20)
    found = {source.names[i]: region[0] for i, region in zip(batch.ids.tolist(), batch.regions.numpy() > 127)}
    half, corner = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    half[:, :4] = True
    corner[:2], corner[:, 6:] = True, True
    assert (found["cat/0.png"] == half).all() and (found["cat/1.png"] == corner).all()
    assert found["cat/2.png"].all() and found["dog/3.png"].all()


def test_a_mask_is_cut_as_its_picture_is(tmp_path):
    folder = folder_with(tmp_path, [{"file": "cat/0.png", "mask": "0.png"}], size=(32, 16))
    mask(folder / "0.png", size=(64, 32), left=32)  # twice the picture's size: same proportions
    source = open_source(folder, size=16, regions=True)
    region = source.regions.read(0, (16, 16))[0] > 127
    assert region[:, :8].all() and not region[:, 8:].any()


def test_a_manifest_names_masks(tmp_path):
    folder = folder_with(tmp_path, [])
    mask(folder / "0.png")
    lines = ["path,label,mask", "cat/0.png,cat,0.png", "cat/1.png,cat,", "dog/0.png,dog,"]
    (folder / "samples.csv").write_text("\n".join(lines))
    source = open_source(folder / "samples.csv", holdout=0.0, regions=True)
    assert [source.regions.read(i, (16, 16)).mean() for i in range(3)] == [127.5, 255, 255]


def test_without_regions_there_are_none(tmp_path):
    source = open_source(folder_with(tmp_path, [{"file": "cat/0.png", "label": "cat"}]), regions=True)
    assert source.regions is None
    assert next(class_incremental(source, 2).batches(2)).regions is None


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("none.png", None, "none.png: cannot be read"),
        ("0.png", (16, 8), "the mask has 16 × 8 pixels, its picture 16 × 16; expected the same proportions"),
        ("../0.png", (16, 16), "outside"),
    ],
)
def test_a_bad_mask_quarantines_its_sample(tmp_path, name, size, message):
    folder = folder_with(tmp_path / "pictures", [{"file": "cat/0.png", "mask": name}])
    if size:
        mask(folder / name, size)
    source = open_source(folder, holdout=0.0, regions=True)
    bad = []
    (batch,) = shuffled(source).batches(20, on_bad=bad.append)
    assert len(batch) == 7 and [each.name for each in bad] == ["cat/0.png"] and message in bad[0].reason
    assert "\n" not in bad[0].reason


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "meta.jsonl, line 1: no JSON; repair or remove the line"),
        ('{"file": "cat/0.png", "mask": 3}', "mask is 3; expected the name of a file"),
        ('{"file": "cat/0.png", "boxes": [[1, 2]]}', r"boxes are \[\[1, 2\]\]; expected \[\[name, left, top"),
    ],
)
def test_a_bad_meta_line_is_named(tmp_path, line, message):
    folder = folder_with(tmp_path, [])
    (folder / "meta.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        open_source(folder, regions=True)
