"""Texts explained by words: the planted word is found, evidence and words agree, the model stays as it was."""

import random

import pytest
import torch

from everlearn.data import Batch
from everlearn.data.text import to_bytes, to_text
from everlearn.errors import ModelError, SettingError
from everlearn.explainers import TEXT_EXPLAINERS, TokenMasking, explain
from everlearn.learners import SLDA
from everlearn.models import build_text_model

NAMES = ["sport", "business", "space", "other"]


def as_bytes(*texts):
    return torch.stack([torch.from_numpy(to_bytes(text, 64)) for text in texts])


@pytest.fixture(scope="module")
def learner(encoders, encoder_folder):
    """Streaming LDA on texts of one or two of a topic's words among fillers, and on fillers alone."""
    model, rng = build_text_model(str(encoder_folder)), random.Random(0)
    learner = SLDA(model, memory=60, precision="float32", shrinkage=0.01)
    for code, topic in enumerate(NAMES):
        texts = [encoders.sentence(topic, rng, 0 if topic == "other" else 1 + i % 2) for i in range(40)]
        learner.observe(Batch(as_bytes(*texts), torch.full((40,), code)))
    return learner


@pytest.mark.parametrize("name", list(TEXT_EXPLAINERS))
def test_the_word_that_decides_is_found(learner, name):
    if name != "token_masking":
        pytest.importorskip("captum")
    texts = ["the of goal and a the", "a a market of the and", "and orbit the of a a"]
    found = explain(learner, as_bytes(*texts), torch.arange(3), explainer=name, class_names=NAMES)
    strongest = [e.parts[int(e.map.argmax())].strip() for e in found]
    assert strongest == ["goal", "market", "orbit"] or name == "input_x_gradient"  # which sees one point only
    assert all(e.map.shape == (1, 1, 6) and torch.isfinite(e.map).all() for e in found)
    better = [e.faithfulness.insertion > e.faithfulness.random_insertion for e in found]
    assert all(better) or name == "input_x_gradient"


def test_words_evidence_and_probability(learner):
    text = as_bytes("the referee and the goal of a match")
    e = explain(learner, text, class_names=NAMES)[0]
    p = learner.predict(text).probabilities[0]
    assert e.probability == pytest.approx(float(p.max()), abs=1e-4)
    assert e.explainer == "token_masking" and "".join(e.parts) == "the referee and the goal of a match"
    assert all(
        set(to_text(x.picture.numpy()).split()) & {"striker", "goal", "match", "referee"} for x in e.evidence_for
    )
    assert "for random orders" in e.words and "Predicted: sport" in e.words
    if e.verdict == "supported":
        assert "it rests on “" in e.words


def test_an_asked_class_a_cutoff_and_a_text_beyond_the_length(learner):
    long = as_bytes("oil " * 15 + "goal")
    asked = explain(learner, long, target=0, class_names=NAMES)[0]
    assert asked.words.startswith("Asked about: sport")
    low = explain(learner, long, target=2, class_names=NAMES, cutoff=0.9)[0]
    assert not low.drawn and low.map.abs().sum() == 0 and low.words.startswith("No finding drawn")


def test_the_learner_stays_as_it_was_and_the_map_is_the_same_again(learner):
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    text = as_bytes("a striker of the market")
    maps = [explain(learner, text)[0].map for _ in range(2)]
    assert torch.equal(*maps)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert learner.model.encoder._states is None


def test_what_does_not_fit_is_named(learner):
    with pytest.raises(SettingError, match="explainer is 'sise'; expected one of token_masking"):
        explain(learner, as_bytes("a"), explainer="sise")
    with pytest.raises(SettingError, match="masks is 1"):
        TokenMasking(learner.model, masks=1)
    with pytest.raises(ModelError, match="has no sentence encoder"):
        TokenMasking(torch.nn.Flatten()).attribute(torch.zeros(1, 3, 1, 4), 0)
