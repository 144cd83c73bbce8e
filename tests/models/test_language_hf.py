"""Equal logits in transformers, there and back."""

import json

import pytest
import torch

from everlearn.errors import ModelError
from everlearn.models.language import Language, LanguageConfig
from everlearn.models.language_hf import class_of, from_hf, load, save, to_hf
from everlearn.models.mixture import Router

SMALL = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "vocab": 64, "seq_len": 32}
CONFIGS = {
    "llama": LanguageConfig(**SMALL, rope_theta=5e4),
    "llama-tied": LanguageConfig(**SMALL, tied=True, head_dim=16),
    "qwen3": LanguageConfig(**SMALL, qk_norm=True, norm_eps=1e-6),
    "exaone4": LanguageConfig(
        **SMALL, qk_norm=True, norm_after=True, window=5, local_layers=3, global_rope=False, rope_theta=1e6
    ),
    "exaone_moe": LanguageConfig(
        **SMALL, qk_norm=True, window=5, local_layers=3, global_rope=False, experts=8, top_k=2, expert_ffn=16,
        shared_ffn=16, dense_layers=1, route_scale=2.5,
    ),
}  # fmt: skip


def model_of(name):
    torch.manual_seed(0)
    model = Language(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, Router):
                module.bias.normal_(std=0.1)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_equal_logits(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = model_of(name)
    save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    assert type(theirs).__name__.lower().startswith(name.split("-")[0].replace("_", ""))
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs.eval()(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "exaone4", "exaone_moe"])
def test_what_transformers_saves_is_read(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    save(model_of(name), tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs").eval()
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs.eval()(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_to_the_bit(name, tmp_path):
    model = model_of(name)
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.config == model.config
    for (key, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items()):
        assert torch.equal(a, b), key


def test_every_class_comes_back_from_its_config():
    for name, config in CONFIGS.items():
        assert class_of(config) == name.split("-")[0]
        assert from_hf(to_hf(config)) == config


def test_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(ModelError, match="model_type is 'mamba'"):
        from_hf({"model_type": "mamba"})
    with pytest.raises(ModelError, match="scaled rotary positions"):
        from_hf(to_hf(CONFIGS["llama"]) | {"rope_parameters": {"rope_type": "yarn"}})
    with pytest.raises(ModelError, match="learned positions"):
        class_of(LanguageConfig(**SMALL, positions=True))
    with pytest.raises(ModelError, match="no Hugging Face class"):
        class_of(LanguageConfig(**SMALL, norm_after=True))
    with pytest.raises(ModelError, match="is not a model in Hugging Face's format"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    save(model_of("llama"), tmp_path)
    known = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | {"intermediate_size": 50}))
    with pytest.raises(ModelError, match=r"gate_proj.weight is \(48, 32\); config.json asks for \(50, 32\)"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(known | {"num_hidden_layers": 5}))
    with pytest.raises(ModelError, match=r"have no model.layers.4"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(known | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"which the model of config.json has not"):
        load(tmp_path)
