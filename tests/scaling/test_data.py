"""Token files and the sampler."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import DataError, SettingError
from everlearn.scaling.data import Sampler, Tokens, place, write_tokens
from everlearn.scaling.schedule import rate
from everlearn.scaling.settings import Schedule
from everlearn.scaling.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer, read_text


def tokens_in(folder, count, name="a.tokens", vocab=1000):
    write_tokens(folder / name, [np.arange(count) % vocab], vocab)
    return Tokens(folder / name)


@pytest.mark.parametrize("vocab", [300, 70000])
def test_tokens_come_back(tmp_path, vocab):
    parts = [[0, vocab - 1, 5], [], [7]]
    assert write_tokens(tmp_path / "t", parts, vocab, "hash") == 4
    tokens = Tokens(tmp_path / "t")
    assert tokens.array.tolist() == [0, vocab - 1, 5, 7]
    assert (tokens.vocab, tokens.tokenizer) == (vocab, "hash")
    assert [file.name for file in tmp_path.iterdir()] == ["t"]


def test_damaged_token_files_are_named(tmp_path):
    file = tmp_path / "t"
    tokens_in(tmp_path, 100, "t")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(DataError, match="is cut short: 709 bytes, expected 712"):
        Tokens(file)
    file.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="is too long"):
        Tokens(file)
    file.write_bytes(b"EVTOKEN1{oops".ljust(600))
    with pytest.raises(DataError, match="header is damaged"):
        Tokens(file)
    file.write_bytes(b"hello")
    with pytest.raises(DataError, match="is not a token file"):
        Tokens(file)
    with pytest.raises(DataError, match="cannot read token file"):
        Tokens(tmp_path / "none")
    with pytest.raises(DataError, match="token 9 for a vocabulary of 5"):
        write_tokens(tmp_path / "u", [[9]], 5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**60))
def test_places_are_a_permutation(size, key):
    assert sorted(place(size, i, key) for i in range(size)) == list(range(size))


def test_every_window_comes_once_an_epoch_in_another_order_each(tmp_path):
    sampler = Sampler([tokens_in(tmp_path, 401)], 10, seed=3)
    epochs = [[sampler.window(40 * e + n)[1] for n in range(40)] for e in range(3)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_parts_of_a_step_join_to_the_step_whatever_the_number_of_processes(tmp_path):
    sampler = Sampler([tokens_in(tmp_path, 1001)], 10, seed=3)
    whole, labels = sampler.batch(7, 8, slice(0, 8))
    parts = [sampler.batch(7, 8, slice(2 * i, 2 * i + 2))[0] for i in range(4)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(labels[:, :-1], whole[:, 1:])
    assert not torch.equal(whole, Sampler(sampler.files, 10, seed=4).batch(7, 8, slice(0, 8))[0])


def test_files_take_turns_by_their_weights_and_each_window_once(tmp_path):
    files = [tokens_in(tmp_path, 10001, "a"), tokens_in(tmp_path, 1001, "b"), tokens_in(tmp_path, 101, "c")]
    sampler = Sampler(files, 10, 0, weights=[0.94, 0.05, 0.01])
    drawn = [sampler.window(n) for n in range(1000)]
    counts = [sum(i == file for i, _ in drawn) for file in range(3)]
    assert counts == pytest.approx([940, 50, 10], abs=1)
    assert len(set(drawn)) == 1000
    for start in (0, 300, 700):  # evenly throughout
        assert sum(i == 1 for i, _ in drawn[start : start + 100]) == pytest.approx(5, abs=1)


def test_what_cannot_be_sampled_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 8 tokens; expected more than a sequence's 10"):
        Sampler([tokens_in(tmp_path, 8)], 10, 0)
    with pytest.raises(DataError, match="2 weights"):
        Sampler([tokens_in(tmp_path, 100)], 10, 0, weights=[1.0, 2.0])


def test_bytes_and_learned_pairs_give_text_back(tmp_path):
    text = "리튬 배터리, lithium battery.\n" * 200
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    learned = open_tokenizer("bpe:300", [tmp_path / "a.txt"])
    assert learned.decode(learned.encode(text)) == text
    assert len(learned.encode(text)) < len(text.encode()) / 4
    assert learned.vocab <= 300
    learned.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (again.hash, again.encode(text)) == (learned.hash, learned.encode(text))


def test_texts_and_tokenizers_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        list(read_text(tmp_path / "latin.txt"))
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:15])
    with pytest.raises(DataError, match="cannot read text"):
        list(read_text(tmp_path / "short.txt.gz"))
    packed = bytearray(gzip.compress(b"a line\n" * 2000))
    packed[15:25] = b"\xff" * 10
    (tmp_path / "damaged.txt.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"cannot read text .*damaged.txt.gz: .*; allow reading it, or copy it anew"):
        list(read_text(tmp_path / "damaged.txt.gz"))
    with pytest.raises(DataError, match="there is no tokenizer"):
        open_tokenizer("none.json", [])
    with pytest.raises(SettingError, match="expected bpe:SIZE"):
        open_tokenizer("bpe:many", [])


def test_the_rate_goes_up_stays_and_comes_down():
    rates = [rate(s, 100, Schedule(warmup=10, decay=20, floor=0.1)) for s in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:81] == [1.0] * 72
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert rate(100, 100, Schedule(warmup=10, decay=20, floor=0.1)) == pytest.approx(0.1)
    # a longer run has the same rates up to where the shorter one decays
    assert [rate(s, 500, Schedule(warmup=10, decay=20)) for s in range(80)] == rates[:80]
