"""``everlearn learn --set rrr=… --set region=… --set frames=…``."""

import json

from .conftest import picture_folder


def test_region_rrr_and_frames_from_the_command_line(everlearn, tmp_path):
    folder = picture_folder(tmp_path / "pictures")
    settings = ["--method", "er", "--tasks", 2, "--memory", 6, "--set", "region=0.5", "--set", "rrr=0.3"]
    settings += ["--set", "frames=0.5"]
    code, _, said = everlearn("learn", folder, "--run", tmp_path / "r", *settings)
    assert code == 2 and "tells of no regions; expected masks or boxes in the folder's meta.jsonl" in " ".join(
        said.split()
    )
    assert not (tmp_path / "r").exists()
    rows = [{"file": f"cat/{i}.png", "boxes": [["face", 0, 0, 8, 16]]} for i in range(6)]
    (folder / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = everlearn.json("learn", folder, "--run", tmp_path / "r", *settings)
    assert result["samples_seen"] == 10
    more = picture_folder(tmp_path / "more", ("cow",))  # a further source need not tell of any
    assert everlearn.json("learn", more, "--run", tmp_path / "r")["samples_seen"] == 15
