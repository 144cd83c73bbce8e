"""The table of explainers: the right pictures, complete and resumable, and figures that are those of the metrics."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from everlearn.bench import explain as bench
from everlearn.bench import explain_paired as paired
from everlearn.bench.explain_lines import Line, lines, version_of
from everlearn.bench.explain_pictures import IMAGENET, Picture, table_pictures
from everlearn.errors import DataError, ModelError, SettingError
from everlearn.explainers import GradCAM
from everlearn.metrics.localisation import energy_in_region


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000),
    ).eval()  # fmt: skip


@pytest.fixture
def pictures():
    region = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    region[..., :8] = True
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return [Picture(f"set/{i}", x[i : i + 1], torch.tensor([i]), region if i == 2 else None) for i in range(3)]


def lines_here(calls):
    def build(model, seed):
        explainer = GradCAM(model)

        def call(x, target):
            calls.append(int(target))
            return explainer.attribute(x, target)

        return call

    return [Line("Grad-CAM", build), Line("slow one", build, slow=True)]


def test_the_table_goes_on_where_it_stopped(model, pictures, tmp_path):
    calls, file = [], tmp_path / "rows.jsonl"
    run = partial(bench.run_table, model, pictures, lines_here(calls), file, steps=4)
    rows = run(slow=1)
    assert calls == [0, 1, 2, 2]  # a slow line begins with pictures that have a region
    assert run(slow=1) == rows and len(calls) == 4
    file.write_text("\n".join(file.read_text().splitlines()[:2]) + '\n{"name": "Gr')
    assert [r["picture"] for r in run(slow=1)] == [r["picture"] for r in rows] and calls[4:] == [2, 2]
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 4
    run(slow=1, seed=1)
    assert len(calls) == 10


def test_a_row_has_the_measures_and_the_cost(model, pictures):
    line = lines_here([])[0]
    row = bench.explain_one(model, line.build(model, 0), pictures[2], steps=4)
    maps = GradCAM(model).attribute(pictures[2].inputs, pictures[2].target)
    assert row["EBPG"] == pytest.approx(100 * float(energy_in_region(maps, pictures[2].region)), abs=1e-3)
    assert row["forwards"] == 3  # one pass, with gradients; what measuring takes does not count
    assert set(bench.MEASURES) <= set(row) and not model._forward_pre_hooks
    assert "EBPG" not in bench.explain_one(model, line.build(model, 0), pictures[0], steps=4)


def test_the_summary_as_markdown():
    row = {"name": "A", "package": None, "insertion": 0.5, "deletion": 0.1, "seconds": 1.0, "forwards": 3}
    better = row | {"name": "B", "package": "peer 1.0", "insertion": 0.75}
    short = row | {"name": "C", "insertion": 0.9}
    text = bench.as_markdown(bench.summary([row, row, better, better, short])).splitlines()
    assert text[2] == "| A | – | – | – | – | 0.500 | **0.100** | – | – | 1.00 | 3 | 2 |"
    assert text[3].startswith("| B (peer 1.0) |") and "**0.750**" in text[3]
    assert "**" not in text[4]  # on fewer pictures than others


def test_the_best_other_is_one_with_the_same_pictures():
    def row(name, picture, insertion, deletion, **more):
        return {"name": name, "package": None, "picture": picture, "insertion": insertion, "deletion": deletion} | more

    rows = [row("FrugalSISE", i, 0.5 + i / 10, 0.1, EBPG=50.0) for i in range(4)]
    rows += [row("A", i, 0.4 + i / 10, 0.3) for i in range(4)] + [row("B", i, 0.1, 0.05 * i) for i in range(4)]
    rows += [row("fewer pictures", i, 1.0, 0.0) for i in range(3)]
    rows += [row("random map", i, 1.0, 0.0) for i in range(4)]
    insertion, deletion = paired.against_the_best(rows)  # no other has EBPG
    assert insertion["other"] == "A" and insertion["better"] == pytest.approx(0.1)
    assert insertion["interval"] == pytest.approx(0, abs=1e-9)
    assert deletion["other"] == "B" and deletion["better"] == pytest.approx(-0.025)
    assert deletion["interval"] == pytest.approx(3.1824 * 0.0645497 / 2, rel=1e-4)
    assert "- deletion: 0.100, 0.075 B; -0.025 ± 0.103" in paired.as_text([insertion, deletion])
    assert paired.as_text(paired.against_the_best(rows[4:])) == ""


def test_pictures_with_boxes_and_with_classes(model, tmp_path):
    rng = np.random.default_rng(0)
    target = IMAGENET[17][0]
    with torch.no_grad():
        model[-1].bias[target] = 20.0  # sees a horse everywhere
    for name in ("boxes", "classes"):
        rows = []
        for i in range(4):
            file = tmp_path / name / "test" / "a" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (10, 20, 3), dtype=np.uint8)).save(file)
            rows.append({"file": f"test/a/{i}.png", "label": "a"})
            if name == "boxes":
                kind = 17 if i else 19
                rows[-1]["boxes_cxcywh"] = [[kind, 0.25, 0.5, 0.5, 1.0], [1000, 0.5, 0.5, 1, 1]]
        (tmp_path / name / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = table_pictures(tmp_path, model, 16, 3)
    assert [p.name for p in found] == ["boxes/test/a/2.png", *(f"classes/test/a/{i}.png" for i in range(3))]
    assert found[0].target.item() == target and found[0].region[..., :8].all() and not found[0].region[..., 8:].any()
    assert found[1].region is None and found[1].inputs.shape == (1, 3, 16, 16)
    alone = table_pictures(tmp_path / "classes" / "test", model, 16, 9)  # no meta.jsonl
    assert len(alone) == 4


def test_folding_batch_norm_keeps_the_outputs(model):
    model[1].running_mean.uniform_(-1, 1)
    x = torch.rand(2, 3, 16, 16)
    before = model(x)
    torch.testing.assert_close(bench.fold_batch_norm(model)(x), before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(SettingError, match="there is no line 'magic'; expected some of random, sise"):
        bench.chosen(lines(), "grad_cam,magic")
    with pytest.raises(SettingError, match="X needs no-such-package, which is not installed"):
        version_of(Line("X", lambda model, seed: None, package="no-such-package"))
    with pytest.raises(ModelError, match="gives no weights for tf_efficientnet_lite0"):
        bench.load_model(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="is not a folder"):
        table_pictures(tmp_path / "none", nn.Identity(), 16, 1)
    with pytest.raises(DataError, match="holds no picture that can be used"):
        table_pictures(tmp_path, nn.Identity(), 16, 1)
    (tmp_path / "meta.jsonl").write_text('{"label": "a"}')
    with pytest.raises(DataError, match="line 1: no 'file'"):
        table_pictures(tmp_path, nn.Identity(), 16, 1)


@pytest.mark.parametrize("name", ["pytorch-grad-cam:GradCAM", "torchcam:GradCAM", "torchcam:ScoreCAM"])
def test_peers_give_a_map(model, pictures, name):
    line = lines()[name]
    pytest.importorskip({"grad-cam": "pytorch_grad_cam"}.get(line.package, line.package))
    with torch.no_grad():
        model[-1].weight.abs_()  # else the map may be empty
    found = line.build(model, 0)(pictures[0].inputs, pictures[0].target)
    assert found.shape == (1, 1, 16, 16)
    if name.endswith("GradCAM"):
        ours = GradCAM(model, "3").attribute(pictures[0].inputs, pictures[0].target)
        a, b = (m.flatten() - m.mean() for m in (found, ours))
        assert float(a @ b / a.norm() / b.norm()) > 0.8
