"""Shapes against published parameter counts and closed forms."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.scaling.plan import load_shape, preset_names
from everlearn.scaling.plan.config import ModelShape, shape_from

SC21 = [  # layers, hidden, heads, billions: Narayanan et al. 2021, table 1
    (24, 2304, 24, 1.7),
    (30, 3072, 32, 3.6),
    (36, 4096, 32, 7.5),
    (40, 6144, 48, 18.4),
    (48, 8192, 64, 39.1),
    (60, 10240, 80, 76.1),
    (80, 12288, 96, 145.6),
    (96, 16384, 128, 310.1),
    (105, 20480, 128, 529.6),
    (128, 25600, 160, 1008.0),
]


def gpt(layers: int, hidden: int, heads: int, **more: int) -> ModelShape:
    return ModelShape("gpt", layers, hidden, heads, 4 * hidden, 51200, positions=True, **more)


@pytest.mark.parametrize(("layers", "hidden", "heads", "billions"), SC21)
def test_parameters_of_the_sc21_table(layers, hidden, heads, billions):
    assert round(gpt(layers, hidden, heads).parameters / 1e9, 1) == billions


@pytest.mark.parametrize(
    ("preset", "total", "active"),
    [
        ("llama3-8b", 8.03, 8.03),
        ("llama3-405b", 405.85, 405.85),
        ("bloom-176b", 176.25, 176.25),
        ("smollm2-135m", 0.1345, 0.1345),
        ("tiny", 2.573e-5, 2.573e-5),
        ("qwen3-235b-a22b", 235.09, 22.19),
        ("mixtral-8x7b", 46.70, 12.88),
        ("k-exaone-236b", 236.0, 23.0),
        ("k-exaone-750b", 750.0, 37.0),
        ("deepseek-v3", 682.0, 38.0),  # 671 and 37 without the further-token predictor's block
    ],
)
def test_parameters_of_known_models(preset, total, active):
    shape = load_shape(preset)
    assert shape.parameters / 1e9 == pytest.approx(total, rel=0.005 if total < 500 else 0.01)
    assert shape.active_parameters / 1e9 == pytest.approx(active, rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1024, 2048, 8192]))
def test_flops_are_the_papers_formula(layers, heads, seq_len):
    h = 128 * heads
    shape = gpt(layers, h, heads, seq_len=seq_len)
    paper = 72 * layers * h * h * (1 + seq_len / (6 * h) + 51200 / (12 * layers * h))
    assert shape.flops_per_token == pytest.approx(paper)


def test_local_attention_is_counted_by_its_window():
    wide = load_shape("exaone4-32b", seq_len=16384)
    assert wide.attended() == 16 * 16384 + 48 * 4096
    assert wide.attended(causal=True) == 16 * 8192 + 48 * 4096


def test_every_preset_loads():
    for name in preset_names():
        assert load_shape(name).parameters > (1e8 if name != "tiny" else 1e4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers = 2\nhidden = 64\nheads = 4\nffn = 256\nvocab = 99\nwidth = 3", "unknown model setting 'width'"),
        ("layers = 2\nhidden = 64\nheads = 4\nffn = 256", "vocab is missing"),
        ("layers = 'two'\nhidden = 64\nheads = 4\nffn = 256\nvocab = 99", "layers is 'two'; expected int"),
        ("layers = 0\nhidden = 64\nheads = 4\nffn = 256\nvocab = 99", "layers is 0; expected 1 or more"),
        ("layers = 2\nhidden = 64\nheads = 4\nvocab = 99", "ffn is 0"),
        ("layers = 2\nhidden = 64\nheads = 4\nkv_heads = 3\nffn = 9\nvocab = 99", "do not divide by 3 kv_heads"),
        ("layers = 2\nhidden = 64\nheads = 4\nffn = 9\nvocab = 99\nexperts = 8", "8 experts with top_k 0"),
        ("layers = ", "not readable TOML"),
    ],
)
def test_bad_shapes_are_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "model.toml"
    file.write_text(text)
    with pytest.raises(SettingError, match=message) as error:
        load_shape(file)
    assert "\n" not in str(error.value)


def test_an_unknown_preset_names_its_neighbours():
    with pytest.raises(SettingError, match=r"no model file or preset 'llama3-406b'.*llama3-405b"):
        load_shape("llama3-406b")


def test_a_directory_is_no_file_but_never_hides_a_preset(tmp_path, monkeypatch):
    with pytest.raises(SettingError, match=r"is a directory; expected a TOML file with \[model\], or a preset"):
        load_shape(tmp_path)
    (tmp_path / "config.toml").write_text("[data]\n")
    with pytest.raises(SettingError, match=r"with \[model\], or a preset"):
        load_shape(tmp_path)
    (tmp_path / "config.toml").write_text("[model]\n[train]\n")
    with pytest.raises(SettingError, match=f"such as {tmp_path}/config.toml, or a preset"):
        load_shape(tmp_path)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_shape("tiny").name == "tiny"


def test_shape_from_changes_fields():
    table = {"layers": 2, "hidden": 64, "heads": 4, "ffn": 256, "vocab": 99}
    assert shape_from(table, "tiny", seq_len=17).seq_len == 17
