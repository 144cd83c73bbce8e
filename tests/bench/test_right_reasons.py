"""Table 2 of explanations on small made-up X-rays: holding out, frames, U-Net, resuming, the tables and the picture."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from everlearn.bench import right_reasons, right_reasons_table
from everlearn.bench.chest import Pictures, bounds, in_frames_of, read_chest, without
from everlearn.bench.lungs import dice, learn_masks, masks_of
from everlearn.errors import DataError, SettingError

SIDE, SEEN = 64, 32


def xray(rng, frame, opacity):
    """Two dark lungs on grey, at a random place, with a spot or none; a frame of the source's own grey."""
    picture = Image.new("L", (SIDE, SIDE), frame)
    mask = Image.new("L", (SIDE, SIDE))
    x, y = int(rng.integers(10, 16)), int(rng.integers(10, 16))
    for left in (x, x + 22):
        box = (left, y, left + 14, y + 34)
        ImageDraw.Draw(picture).rectangle(box, fill=60)
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    if opacity:
        ImageDraw.Draw(picture).rectangle((x + 2, y + 8, x + 9, y + 18), fill=150)
    noise = rng.integers(0, 20, (SIDE, SIDE))
    return Image.fromarray((np.asarray(picture) + noise).astype(np.uint8)), mask, (x + 2, y + 8, x + 10, y + 19)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The set with classes, whose COVID pictures are also in the second one, and that one."""
    folder, rng = tmp_path_factory.mktemp("chest"), np.random.default_rng(0)
    data, lungs = folder / "classes", folder / "lungs"
    rows = {data: [], lungs: []}

    def add(root, label, row, drawn):
        file = f"all/{label}/{len(rows[root]):03d}.png"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        drawn[0].save(root / file)
        if root == lungs:
            (root / "masks").mkdir(exist_ok=True)
            drawn[1].save(root / "masks" / f"{len(rows[root]):03d}.png")
            row["mask"] = f"masks/{len(rows[root]):03d}.png"
        rows[root].append({"file": file, "label": label, **row})

    for i in range(16):
        drawn = xray(rng, 220, True)
        add(data, "Covid-19", {"origin": f"c{i}"}, drawn)
        add(lungs, "COVID-19", {"origin": f"c{i}", "patientid": str(i // 2)}, drawn)
        add(lungs, "COVID-19" if i % 2 else "Streptococcus", {"patientid": str(100 + i)}, xray(rng, 220, True))
        for label in ("No_findings", "Pneumonia"):
            drawn = xray(rng, 120, label == "Pneumonia")
            known = {"boxes": [["Pneumonia", *drawn[2]]]} if label == "Pneumonia" and i < 2 else {}
            add(data, label, {"origin": f"{label}{i}", "patient": 10 * len(label) + i, **known}, drawn)
    for root, found in rows.items():
        (root / "meta.jsonl").write_text("\n".join(map(json.dumps, found)))
    return data, lungs


@pytest.fixture(scope="module")
def chest(sets, tmp_path_factory):
    return read_chest(*sets, SEEN, tmp_path_factory.mktemp("unet") / "unet.safetensors", epochs=6)


def test_no_patient_is_learned_and_measured(sets, chest):
    assert chest.class_names == ("Covid-19", "No_findings", "Pneumonia")
    assert len(chest.learned) + len(chest.test) == 48
    assert not chest.learned.boxes.any() and chest.test.boxes.flatten(1).any(1).sum() == 2
    assert sorted(chest.test.labels.unique().tolist()) == [0, 1, 2]
    for known in (chest.test, chest.elsewhere):  # no picture comes twice, though the second set has the first one's
        for picture in known.inputs:
            assert not (chest.learned.inputs == picture).flatten(1).all(1).any()
    held = [int((chest.test.inputs == picture).flatten(1).all(1).any()) for picture in chest.elsewhere.inputs]
    assert sum(held) == int((chest.test.labels == 0).sum())  # what is held out there is held out here


def test_the_u_net_finds_what_it_was_shown(chest):
    assert chest.dice > 0.8
    inputs = torch.cat([chest.elsewhere.inputs] * 2)
    masks = torch.cat([chest.elsewhere.regions] * 2)
    again = learn_masks(inputs, masks.to(torch.uint8) * 255, epochs=1)
    assert masks_of(again, inputs).shape == masks.shape
    assert dice(masks, masks).tolist() == [1.0] * len(masks)


def region(top, bottom, left, right):
    found = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    found[..., top:bottom, left:right] = True
    return found


def test_frames_are_exchanged_around_the_lungs():
    nothing = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mine = Pictures(torch.full((1, 1, 8, 8), 10, dtype=torch.uint8), torch.tensor([0]), region(0, 4, 0, 4), nothing)
    mine.inputs[..., :4, :4] = 200
    other = torch.full((1, 1, 8, 8), 90, dtype=torch.uint8)
    found = in_frames_of(mine, other)
    assert (found[mine.regions] == 200).all() and (found[~mine.regions] == 90).all()
    assert bounds(region(2, 8, 3, 5)[0, 0]) == (2, 8, 3, 5)
    grey = round((200 * 16 + 10 * 48) / 64)
    lungs_gone, frame_gone = without(mine, "lungs"), without(mine, "frame")
    assert (lungs_gone[mine.regions] == grey).all() and (lungs_gone[~mine.regions] == 10).all()
    assert (frame_gone[mine.regions] == 200).all() and (frame_gone[~mine.regions] == grey).all()


def test_the_table_runs_goes_on_and_draws(chest, tmp_path):
    setting = right_reasons.Setting(backbone="slim_resnet18", size=SEEN, epochs=2, memory=20)
    file, said = tmp_path / "rows.jsonl", []

    def run(names=("random", "grad_cam")):
        return right_reasons.run_table(chest, setting, None, names, [0], file, pictures=3, slow=1, show=said.append)

    rows = run()
    assert len(rows) == 7 == len(file.read_text().splitlines()) == len(said)
    kept = file.read_text().splitlines()
    file.write_text("\n".join([*kept[:3], kept[3][:20]]))  # killed while it wrote
    again = run()
    assert len(said) == 11 and [row["name"] for row in again] == [row["name"] for row in rows]
    assert repr(again[:3]) == repr(rows[:3]) and again[3]["accuracy"] == rows[3]["accuracy"]
    tables = right_reasons_table.summary(rows)
    names = ["plain", "region = 1", "frames = 0.5", "region = 1, frames = 0.5"]
    assert [entry["name"] for entry in tables["accuracy"]] == list(setting.cures) == names
    for entry in tables["accuracy"]:
        assert 0 <= entry["frames exchanged"][0] <= 100 and sum(v[0] for v in entry["elsewhere"]["Pneumonia"]) > 99
    areas = {kind: entry[kind]["area"] for entry in tables["energy"] for kind in right_reasons_table.KINDS}
    assert 0 < areas["boxes"] < areas["elsewhere"] < 60
    text = right_reasons_table.as_markdown(tables, chest.class_names)
    assert "| ER, rrr = 1, region = 1 |" in text and "| share of the picture |" in text
    right_reasons_table.draw(rows, chest.test, tmp_path / "docs" / "maps.png")
    assert Image.open(tmp_path / "docs" / "maps.png").width > 100
    with pytest.raises(SettingError, match="there is no line 'magic'; expected some of random, grad_cam"):
        run(["magic"])


def test_sets_that_do_not_fit_get_one_line(sets, tmp_path):
    data, _ = sets
    with pytest.raises(
        DataError, match=r"has no meta\.jsonl; expected the set with lungs in the form of unpacked sets"
    ):
        read_chest(data, tmp_path, SIDE, tmp_path / "unet")
    with pytest.raises(DataError, match=r"has no masks in meta\.jsonl; expected a set with lungs marked"):
        read_chest(data, data, SIDE, tmp_path / "unet")
    with pytest.raises(SettingError, match="table 2 needs --lungs FOLDER beside --data FOLDER"):
        right_reasons_table.table(
            data,
            None,
            None,
            None,
            [0],
            tmp_path / "r",
            pictures=1,
            slow=1,
            size=64,
            quick=True,
            picture=None,
            show=print,
        )
