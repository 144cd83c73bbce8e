"""Traced collectives against those counted by hand."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling.dry_run import dry_run
from everlearn.scaling.plan import Layout as PlanLayout
from everlearn.scaling.plan import ModelShape, load_cluster, predict
from everlearn.scaling.plan_trace import trace_plan
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


@pytest.mark.parametrize("rank", [0, 9])
def test_a_pipeline_sends_activations_and_gradients(rank):
    layout = Layout(pp=2, tp=2, vpp=1, zero=1, precision="bf16", schedule="1f1b")
    traced = dry_run(replace(SMALL, layers=4), layout, 16, rank=rank, global_batch=4 * 4)
    assert traced.along["send", "pp"] == (4, 4 * (S // 2) * H * 2)  # each stage sends once a micro-batch: down or up
    ends = 2  # the embedding's scatter, the head's gather: one each way
    assert traced.along["reduce_scatter", "tp"][0] == 4 * (4 * 2 + ends / 2)
    assert ("reduce_scatter", "fsdp") in traced.along and traced.calls["send", 2] == 4


@pytest.mark.parametrize(
    "layout",
    [
        {"dp": 4, "tp": 2, "pp": 2, "vpp": 2},
        {"dp": 8, "tp": 2, "zero": 3, "recompute": "full"},
        {"dp": 4, "cp": 4, "zero": 3},
    ],
)
def test_a_plan_counts_what_the_code_does(layout):
    shape = ModelShape("small", 8, 256, 8, 1024, 512, 64, gated=True, tied=False)
    plan = predict(shape, PlanLayout(global_batch=16, **layout), load_cluster("h100:16"))
    found = trace_plan(plan)
    assert found.micro_batches == layout.get("pp", 1)
    assert {row.dimension for row in found.rows} >= {
        name for name in ("tp", "pp", "cp", "dp") if layout.get(name, 1) > 1
    }
    for row in found.rows:
        assert row.planned_bytes == pytest.approx(row.bytes, rel=0.35), row  # the first stage sends less
    assert found.ratio == pytest.approx(1, abs=0.1)


def test_a_plan_of_experts_counts_that_each_process_has_a_part_of_every_one():
    shape = ModelShape("mixture", 8, 256, 8, 1024, 512, 64, gated=True, tied=False,
                       experts=8, top_k=2, expert_ffn=512, shared_ffn=512)  # fmt: skip
    layout = PlanLayout(dp=8, tp=2, ep=4, zero=1, global_batch=16)
    rows = {(row.kind, row.dimension): row for row in trace_plan(predict(shape, layout, load_cluster("h100:16"))).rows}
    for key in ("all_to_all", "ep"), ("reduce_scatter", "dp"), ("all_gather", "dp"), ("all_gather", "tp"):
        assert rows[key].planned_bytes == pytest.approx(rows[key].bytes, rel=0.1), rows[key]


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(SettingError, match="does not fill 6 processes"):
        dry_run(SMALL, Layout(tp=4), 6)
