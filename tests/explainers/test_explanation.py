from dataclasses import replace

import pytest
import torch
from torch import nn

from everlearn.errors import SettingError
from everlearn.explainers import EXPLAINERS, SISE, explain
from everlearn.explainers.words import where, words
from everlearn.learners.er import ER
from everlearn.metrics.verdict import Faithfulness
from everlearn.models import build_model

NAMES = {7: "above", 3: "below"}


def test_a_learners_predictions(learner, pictures):
    before = {name: t.clone() for name, t in learner.state_dict().items()}
    learner.model.train()
    found = explain(learner, pictures, class_names=NAMES)
    assert learner.model.training
    assert [e.code for e in found] == [7, 3] and [e.target for e in found] == [0, 1]
    prediction = learner.predict(pictures)
    for i, e in enumerate(found):
        assert e.predicted and e.map.shape == (1, 8, 8) and torch.isfinite(e.map).all()
        assert e.probability == pytest.approx(float(prediction.confidence[i]), abs=1e-5)
        assert e.evidence_for[0].code == e.code
        assert all(c.value < 0 for c in e.evidence_against)
        assert e.words.startswith(f"Predicted: {NAMES[e.code]}, probability") and e.words.count(". ") == 2
        assert len(e.faithfulness.random_insertions) == 8
    after = learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_normalised_inputs_give_the_same(learner, pictures):
    bytes_, floats = (explain(learner, x) for x in (pictures, learner.model.normalise(pictures)))
    assert torch.equal(bytes_[0].map, floats[0].map) and bytes_[0].words == floats[0].words


def test_target_by_label_code(learner, pictures):
    e = explain(learner, pictures[:1], target=3, class_names=NAMES.get)[0]
    assert (e.code, e.target, e.predicted) == (3, 1, False)
    assert e.words.startswith("Asked about: below") and "not the prediction" in e.words
    both = explain(learner, pictures, target=torch.tensor([3, 7]))
    assert [e.code for e in both] == [3, 7]
    with pytest.raises(SettingError, match=r"target is 5; the learner has seen the label codes \[7, 3\]"):
        explain(learner, pictures, target=5)


def test_nearest_class_mean_is_what_is_explained(learner, pictures):
    ncm = ER(
        build_model("slim_resnet18", channels=1, size=8),
        memory=40,
        precision="float32",
        device="cpu",
        classifier="ncm",
    )
    ncm.load_state_dict(learner.state_dict())
    e = explain(ncm, pictures[:1])[0]
    assert e.probability == pytest.approx(float(ncm.predict(pictures[:1]).confidence[0]), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name != "token_sampling"])
def test_any_module_with_any_explainer(name, cnn):
    if name in ("integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion"):
        pytest.importorskip("captum")
    model = cnn()
    found = explain(model, torch.randn(2, 1, 16, 16), explainer=name, class_names=["a", "b", "c"], steps=4)
    assert all(e.evidence is None and e.evidence_for == [] and e.explainer == name for e in found)
    assert "no memory of cases" in found[0].words


def test_an_explainer_of_ones_own(cnn):
    model = cnn()
    e = explain(model, torch.randn(1, 1, 16, 16), explainer=SISE(model, mu=0.3))[0]
    assert e.explainer == "SISE"


def test_bytes_need_a_way_to_normalise(cnn):
    model, x = cnn(), torch.randint(0, 255, (1, 1, 16, 16), dtype=torch.uint8)
    with pytest.raises(SettingError, match=r"inputs are torch.uint8 and Sequential does not say how to normalise"):
        explain(model, x)
    assert len(explain(model, x, normalise=lambda u: u / 255)) == 1


def test_one_class_only(pictures):
    from everlearn.data.samples import Batch

    young = ER(build_model("slim_resnet18", channels=1, size=8), memory=4, precision="float32", device="cpu")
    young.observe(Batch(pictures, torch.tensor([7, 7])))
    e = explain(young, pictures[:1])[0]
    assert (e.code, e.probability, e.verdict) == (7, 1.0, "not supported")
    assert torch.isfinite(e.map).all()


def test_none_at_all(learner, cnn, pictures):
    assert explain(learner, pictures[:0]) == []
    assert explain(cnn(), torch.zeros(0, 1, 16, 16)) == []


def test_what_cannot_be_explained(cnn, pictures):
    with pytest.raises(SettingError, match="explainer is 'magic'; expected one of sise, ada_sise"):
        explain(cnn(), torch.zeros(1, 1, 16, 16), explainer="magic")
    with pytest.raises(SettingError, match=r"inputs are \(16, 16\); expected"):
        explain(cnn(), torch.zeros(16, 16))
    with pytest.raises(SettingError, match="nothing has been learned yet"):
        explain(ER(build_model("slim_resnet18", channels=1, size=8), device="cpu"), pictures)


def test_where():
    heatmap = torch.zeros(9, 9)
    heatmap[6:, 4] = 2.0
    assert where(heatmap) == ("lower middle", pytest.approx(2 / 81))
    assert where(torch.ones(3, 3)) == ("centre", pytest.approx(5 / 9)) or where(torch.ones(3, 3))[1] > 0.5
    assert where(torch.zeros(3, 3)) is None and where(-torch.ones(3, 3)) is None


def test_words_never_claim_more_than_the_verdict(learner, pictures):
    e = explain(learner, pictures[:1], class_names=NAMES)[0]
    heatmap = torch.zeros(1, 8, 8)
    heatmap[0, :2, :2] = 1.0

    def said(verdict, **changes):
        f = Faithfulness(0.9, 0.1, (0.4, 0.5), (0.5, 0.6), verdict)
        return words(replace(e, faithfulness=f, **changes), NAMES.__getitem__)

    supported = said("supported", map=heatmap)
    assert "rests on a region at the upper left, 3% of the picture" in supported
    assert "insertion 0.90 against 0.45 for random maps, deletion 0.10 against 0.55" in supported
    weak = said("weak", map=heatmap)
    assert "rests on" not in weak and "points to the upper left" in weak and "weakly supported" in weak
    no = said("not supported", map=heatmap)
    assert "upper left" not in no and "rests on" not in no and "do not rely on it" in no
    assert "the map is empty" in said("not supported", map=torch.zeros(1, 8, 8))
    assert "spread over the picture" in said("supported", map=torch.ones(1, 8, 8))
    assert "No remembered case" in said("weak", evidence=[])


@pytest.mark.parametrize(("cutoff", "drawn"), [(None, True), (-6.0, True), (-5.0, False)])
def test_an_output_below_zero_is_drawn_unless_a_cutoff_is_set(cutoff, drawn):
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[-1].bias[0] -= 5.5 + float(model(x)[0, 0])
    e = explain(model, x, target=0, confidence="none", cutoff=cutoff, explainer="grad_cam")[0]
    assert e.probability == pytest.approx(-5.5, abs=1e-4)
    assert e.drawn == drawn and ("No finding drawn" in e.words) != drawn
