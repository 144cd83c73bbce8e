"""Traced collectives against those counted by hand."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling.dry_run import dry_run
from everlearn.scaling.settings import Layout

L, H, V, S = 3, 64, 128, 32
SMALL = LanguageConfig(layers=L, hidden=H, heads=8, ffn=128, vocab=V, seq_len=S)


def test_sharded_data_gathers_each_block_twice_and_scatters_it_once():
    traced = dry_run(SMALL, Layout(zero=3), 8)
    assert traced.calls[("all_gather", 8)] == 2 * L + 1  # blocks forward and backward, the rest once
    assert traced.calls[("reduce_scatter", 8)] == L + 1
    weights = 4 * traced.parameters
    assert traced.bytes[("reduce_scatter", 8)] == weights
    assert weights < traced.bytes[("all_gather", 8)] < 2 * weights
    assert traced.held_bytes == weights / 8
    assert not dist.is_initialized()


def test_tensor_parallelism_with_sequences_gathers_and_scatters_activations():
    traced = dry_run(SMALL, Layout(tp=2), 8)
    # a block forward: two gathers, two scatters; backward the same; embedding and head one each way
    assert traced.calls[("all_gather", 2)] == traced.calls[("reduce_scatter", 2)] == 4 * L + 2
    assert traced.bytes[("all_gather", 2)] == (4 * L + 2) * S * H * 4


def test_ulysses_sends_heads_to_and_fro():
    traced = dry_run(SMALL, Layout(cp=4, context="ulysses"), 8)
    assert traced.calls[("all_to_all", 4)] == 2 * 4 * L  # queries, keys, values, output; forward and backward


def test_experts_send_rows_there_and_back():
    config = replace(SMALL, experts=8, top_k=2, expert_ffn=32, shared_ffn=32)
    traced = dry_run(config, Layout(ep=4, precision="bf16"), 8)
    assert traced.calls[("all_to_all", 4)] == (4 + 1) * L  # rows twice each way, counts once
    rows = 4 * L * (S * config.top_k) * H * 2
    assert rows <= traced.bytes[("all_to_all", 4)] <= rows + L * 8 * 8


def test_a_size_that_no_machine_here_holds():
    traced = dry_run(
        LanguageConfig(layers=2, hidden=20480, heads=128, ffn=81920, vocab=51200, gated=False), Layout(tp=8), 1024
    )
    assert traced.parameters == 2 * (12 * 20480**2 + 2 * 20480) + 2 * 51200 * 20480 + 20480
    assert traced.held_bytes == pytest.approx(4 * traced.parameters / 1024, rel=0.01)


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(SettingError, match="pp 2: a dry run traces one stage"):
        dry_run(SMALL, Layout(pp=2), 8)
    with pytest.raises(SettingError, match="does not fill 6 processes"):
        dry_run(SMALL, Layout(tp=4), 6)
