"""Replay of an earlier corpus, and runs that begin with another's weights."""

import copy
import json

import numpy as np
import pytest
import torch

from everlearn.errors import DataError, ModelError, SettingError
from everlearn.models.language import Language, LanguageConfig
from everlearn.models.language_hf import save
from everlearn.scaling.checkpoint import load_model
from everlearn.scaling.data import Sampler, Tokens, write_tokens
from everlearn.scaling.pretrain import pretrain
from everlearn.scaling.replay import Replaying
from everlearn.scaling.replay_values import AHEAD, OLD, losses, window_values


def tokens(folder, name, count, first=0):
    write_tokens(folder / name, [first + np.arange(count) % 500], 1000)
    return Tokens(folder / name)


@pytest.fixture
def replaying(tmp_path):
    now = Sampler([tokens(tmp_path, "now", 5001)], 10, seed=3)
    earlier = [tokens(tmp_path, "a", 2001, 500), tokens(tmp_path, "b", 1001, 500)]

    def make(share, memory=0):
        return Replaying(now, earlier, share, memory)

    return make


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5])
def test_the_share_is_replayed_evenly_and_nothing_of_the_new_is_lost(replaying, share):
    drawn = [replaying(share).window(n) for n in range(1000)]
    for start in (0, 400, 800):
        assert sum(old for old, *_ in drawn[start : start + 200]) == pytest.approx(200 * share, abs=1)
    new = [window for old, _, window in drawn if not old]
    assert new[:500] == [replaying(0.0).window(n)[2] for n in range(len(new))][:500]
    assert len(set(new[:500])) == min(500, len(new))


def test_the_memory_is_a_uniform_sample_without_replacement(replaying):
    assert replaying(0.1).size == 300
    small = replaying(0.5, memory=30)
    held = [small.held(slot) for slot in range(30)]
    assert len(set(held)) == 30
    drawn = [where for old, *where in map(small.window, range(120)) if old]
    assert {tuple(where) for where in drawn} == set(held)
    assert [sorted(map(tuple, drawn[:30])), sorted(map(tuple, drawn[30:]))] == [sorted(held)] * 2
    times = np.zeros(300)
    for seed in range(300):
        small._key = seed * 7919
        for slot in range(30):
            file, window = small.held(slot)
            times[200 * file + window] += 1
    assert times.mean() == 30
    assert times.std() == pytest.approx((30 * 0.9) ** 0.5, rel=0.2)  # of a binomial with p = 0.1


def test_batches_hold_the_old_and_are_the_same_in_parts(replaying):
    sampler = replaying(0.25)
    whole, labels = sampler.batch(3, 8, slice(0, 8))
    assert torch.equal(torch.cat([sampler.batch(3, 8, slice(i, i + 2))[0] for i in (0, 2, 4, 6)]), whole)
    assert (whole >= 500).all(1).sum() == 2
    assert torch.equal(whole[:, 1:], labels[:, :-1])


def test_an_earlier_corpus_too_short_is_named(tmp_path):
    now = Sampler([tokens(tmp_path, "now", 101)], 10, 0)
    with pytest.raises(DataError, match="short: it has no window of 10 tokens"):
        Replaying(now, [tokens(tmp_path, "short", 7)], 0.1)


def test_a_second_corpus_is_learned_from_the_first_runs_weights(tiny, tmp_path):
    (tmp_path / "second.txt").write_text("lithium and graphite; salt in a solvent.\n" * 90)
    first = tiny(train={"steps": 40})
    pretrain(first, tmp_path / "first")
    old, new = first.data.train[0], str(tmp_path / "second.txt")
    told = {}
    for share in (0.0, 0.3):
        data = {"train": [new], "valid": [new], "replay": [old], "replay_share": share, "memory": 20, "watch": [old]}
        settings = tiny(data=data, train={"steps": 30, "evaluate_every": 1}, start=str(tmp_path / "first"))
        pretrain(settings, tmp_path / f"share{share}")
        lines = (tmp_path / f"share{share}" / "journal.jsonl").read_text().splitlines()
        told[share] = [json.loads(line)["watched"]["text"] for line in lines]
    assert told[0.0][0] < 3.5  # it began with what the first run knew
    assert told[0.0][-1] > told[0.3][-1] + 0.2  # and forgot more without replay


def test_runs_begin_with_exported_weights_and_name_what_differs(tiny, tmp_path):
    config = tiny().language(257)
    model = Language(config)
    save(model, tmp_path / "hf")
    quiet = {"steps": 1, "checkpoint_every": 1}
    pretrain(tiny(train=quiet, optimiser={"lr": 1e-12}, start=str(tmp_path / "hf")), tmp_path / "run")
    held = load_model(tmp_path / "run" / "checkpoints")[0].state_dict()
    assert all(torch.allclose(held[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ModelError, match=r"has \(48, 32\) for blocks.0.feed.*; the model's is \(64, 32\)"):
        pretrain(tiny(model={"ffn": 64}, start=str(tmp_path / "hf")), tmp_path / "other")
    with pytest.raises(SettingError, match="neither a run"):
        pretrain(tiny(start=str(tmp_path / "none")), tmp_path / "third")


def test_texts_of_one_name_are_refused(tiny, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text.txt").write_text("x" * 500)
    with pytest.raises(DataError, match="have one name"):
        pretrain(tiny(data={"replay": [str(tmp_path / "other" / "text.txt")]}), tmp_path / "run")


def test_values_are_the_directional_derivatives_along_the_earlier_loss(replaying):
    memory, batch = replaying(0.5, memory=12), 4
    config = LanguageConfig(layers=2, hidden=32, heads=2, ffn=48, vocab=1000, seq_len=10)
    torch.manual_seed(0)
    model = Language(config)
    found = window_values(copy.deepcopy(model), memory, batch, lr=1e-3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(AHEAD):  # by gradients of their own, one window at a time
        optimiser.zero_grad()
        losses(model, *memory.sampler.batch(step, batch, slice(0, batch))).mean().backward()
        optimiser.step()

    def gradient(slots):
        loss = losses(model, *memory.remembered(slots)).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    g = gradient(range(12, 12 + OLD * batch))  # windows of the earlier corpus that are not in the memory
    expected = torch.stack([gradient([slot]) @ g for slot in range(12)]) / g.norm()
    assert torch.allclose(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
    assert expected.std() > 0.05 * expected.abs().max()


def test_only_the_best_are_replayed(replaying):
    memory = replaying(0.5, memory=30)
    best = Replaying(memory.sampler, memory.earlier, 0.5, 30, best=[3, 17, 29])
    drawn = {tuple(where) for old, *where in map(best.window, range(60)) if old}
    assert drawn == {memory.held(slot) for slot in (3, 17, 29)}
    for wrong in ([], [30], [-1]):
        with pytest.raises(DataError, match="windows chosen of a memory of 30"):
            Replaying(memory.sampler, memory.earlier, 0.5, 30, best=wrong)


def test_a_run_by_value_values_once_and_says_what_is_missing(tiny, tmp_path):
    (tmp_path / "second.txt").write_text("lithium and graphite; salt in a solvent.\n" * 90)
    pretrain(tiny(train={"steps": 5}), tmp_path / "first")
    old, new = tiny().data.train[0], str(tmp_path / "second.txt")
    data = {"train": [new], "replay": [old], "replay_share": 0.3, "memory": 20, "replay_by": "value", "kept": 0.2}
    settings = tiny(data=data, train={"steps": 3}, start=str(tmp_path / "first"))
    pretrain(settings, tmp_path / "run")
    file = tmp_path / "run" / "replay.json"
    known = json.loads(file.read_text())
    assert len(known["best"]) == 4 and len(known["values"]) == 20
    ranked = sorted(range(20), key=lambda slot: -known["values"][slot])
    assert [known["values"][slot] for slot in known["best"]] == [known["values"][slot] for slot in ranked[:4]]
    before = file.stat().st_mtime_ns
    pretrain(settings.model_copy(update={"train": settings.train.model_copy(update={"steps": 4})}), tmp_path / "run")
    assert file.stat().st_mtime_ns == before
    file.write_text("{")
    with pytest.raises(DataError, match=r"replay\.json cannot be read"):
        pretrain(
            settings.model_copy(update={"train": settings.train.model_copy(update={"steps": 5})}), tmp_path / "run"
        )
    with pytest.raises(SettingError, match="give start"):
        pretrain(tiny(data=data, train={"steps": 3}), tmp_path / "other")


def test_any_text_file_is_read_and_anything_else_is_named(tiny, tmp_path):
    (tmp_path / "notes.md").write_text("배터리와 발광 소자\n" * 60)
    pretrain(tiny(data={"train": [str(tmp_path / "notes.md")]}, train={"steps": 1}), tmp_path / "run")
    assert (tmp_path / "run" / "data" / "notes.md.tokens").exists()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        pretrain(tiny(data={"train": [str(tmp_path / "picture.png")]}), tmp_path / "other")
