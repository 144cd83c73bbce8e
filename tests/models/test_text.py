"""The frozen sentence encoder and the model on it."""

import shutil

import pytest
import torch

from everlearn.data.text import to_bytes
from everlearn.errors import ModelError
from everlearn.models import TextModel, build_text_model
from everlearn.models.sentence_encoder import SentenceEncoder

SENTENCES = ["the striker and the goal", "unbelievably, oil", "a"]


def as_bytes(*texts):
    return torch.stack([torch.from_numpy(to_bytes(text, 64)) for text in texts])


@pytest.fixture
def model(encoder_folder):
    return build_text_model(str(encoder_folder))


def test_features_are_those_of_transformers(model, encoder_folder):
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(encoder_folder).eval()
    for text, found in zip(SENTENCES, model.features(as_bytes(*SENTENCES))):
        ids = torch.tensor([model.encoder.tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = theirs(input_ids=ids).last_hidden_state.mean(1)
        assert torch.allclose(found, torch.nn.functional.normalize(mean, dim=1)[0], atol=1e-6)


def test_embedded_tokens_give_the_same_features_and_zero_is_a_token_that_is_not_there(model):
    inputs = as_bytes(*SENTENCES)
    x = model.normalise(inputs)
    assert torch.allclose(model.features(x), model.features(inputs), atol=1e-5)
    x[0, :, :, 2] = 0
    y = model.normalise(inputs)
    y[0, :32, :, 2] += 5  # whatever stands where nothing counts
    y[0, 32, :, 2] = 0
    assert torch.allclose(model.features(x)[0], model.features(y)[0], atol=1e-5)
    assert not torch.allclose(model.features(x)[0], model.features(inputs)[0], atol=1e-3)


def test_a_text_gives_the_same_bits_in_any_company(encoder_folder):
    one, other = (build_text_model(str(encoder_folder)) for _ in range(2))
    together = one.features(as_bytes(*SENTENCES))
    alone = torch.cat([other.features(as_bytes(text)) for text in reversed(SENTENCES)]).flip(0)
    assert torch.equal(together, alone)


def test_each_text_is_encoded_once_and_the_oldest_are_let_go(encoder_folder):
    encoder = SentenceEncoder(encoder_folder, kept=2)
    seen = []
    encoder.features = lambda x, inner=encoder.features: seen.append(len(x)) or inner(x)
    model = TextModel(encoder)
    for text in ("a", "the", "a", "of", "the"):
        model.features(as_bytes(text))
    assert sum(seen) == 4  # a, the, of, and the again


def test_the_state_is_small_and_refused_on_other_weights(model, encoders, tmp_path):
    state = model.state_dict()
    assert sum(t.numel() for t in state.values()) < 50
    model.load_state_dict(state)
    other = build_text_model(str(encoders.build_encoder(tmp_path / "other", seed=1)))
    with pytest.raises(ModelError, match="not the encoder that this state was learned on"):
        other.load_state_dict(state)


def test_words_of_a_text(model):
    found = model.pieces(as_bytes("The striker's  unbelievable goal.")[0])
    assert "".join(found.parts) == "The striker's  unbelievable goal." and found.rest == ""
    assert [part.strip() for part in found.parts] == ["The", "striker", "'", "s", "unbelievable", "goal", "."]
    assert found.words[0] == found.words[-1] == -1
    long = model.pieces(torch.from_numpy(to_bytes("oil " * 60, 256)))
    assert len(long.parts) == 30 and "".join(long.parts) + long.rest == ("oil " * 60).strip()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_file_or_with_a_damaged_one_is_named(encoder_folder, tmp_path, missing):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    (folder / missing).write_bytes(b"\x00damaged")
    with pytest.raises(ModelError, match="cannot be loaded as a sentence encoder"):
        build_text_model(str(folder))
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"has no {missing}"):
        build_text_model(str(folder))


def test_no_encoder_at_all():
    with pytest.raises(ModelError, match="there is no sentence encoder 'slim_resnet18'"):
        build_text_model("slim_resnet18")
