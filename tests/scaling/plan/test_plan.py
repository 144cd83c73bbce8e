"""A step: what must hold of any layout, and collectives against hand counts."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import SettingError
from everlearn.scaling.plan import Layout, collectives_of, load_cluster, load_shape, predict
from everlearn.scaling.plan.collectives import Wire, expert_wire, ring_seconds, wire
from everlearn.scaling.plan.stack import GRAPHS, MEGATRON_2021, MODERN

GPT = load_shape("gpt-175b")
MOE = load_shape("qwen3-235b-a22b")
LAYOUTS = st.builds(
    lambda dp, tp, pp, micro, recompute, zero: Layout(
        dp, tp, pp, 1, 1, 1, micro, 64 * dp * micro, zero, recompute, tp > 1
    ),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 4, 12]),
    st.sampled_from([1, 2]),
    st.sampled_from(["none", "selective", "full"]),
    st.sampled_from([0, 1, 2, 3]),
)


@settings(deadline=None)
@given(LAYOUTS)
def test_parts_sum_to_the_step_and_none_is_negative(layout):
    plan = predict(GPT, layout, load_cluster(f"h100:{layout.devices}"))
    assert sum(plan.parts.values()) == pytest.approx(plan.step_seconds)
    assert min(plan.parts.values()) >= -1e-9
    assert 0 < plan.mfu <= plan.hfu < 1


@settings(deadline=None)
@given(LAYOUTS)
def test_recomputation_and_slow_networks_never_help(layout):
    cluster = load_cluster(f"a100:{layout.devices}")
    plain = predict(GPT, replace(layout, recompute="none"), cluster).step_seconds
    assert predict(GPT, replace(layout, recompute="full"), cluster).step_seconds > plain
    slow = replace(cluster, network_gb_s=1.0, domain_gb_s=10.0)
    assert predict(GPT, replace(layout, recompute="none"), slow).step_seconds >= plain


def test_bubble_is_the_papers_share():
    """(p − 1)/m of the ideal time for equal stages, 1/v of it with v chunks (Narayanan et al. 2021, section 2.2)."""
    shape = replace(GPT, vocab=8)
    layout = Layout(pp=8, global_batch=64, recompute="none", sequence_parallel=False)
    found = []
    for v in (1, 3):
        plan = predict(shape, replace(layout, vpp=v), load_cluster("h100:8"))
        ideal = plan.step_seconds - plan.parts["bubble"] - plan.parts["pipeline"] - plan.parts["optimiser"]
        found.append(plan.parts["bubble"] / ideal)
    assert found == [pytest.approx(7 / 64, rel=0.02), pytest.approx(7 / 64 / 3, rel=0.02)]


def test_hfu_counts_recomputation_and_mfu_does_not():
    cluster, layout = load_cluster("a100:8"), Layout(tp=8, global_batch=8, recompute="full")
    plan = predict(load_shape("gpt-22b"), layout, cluster)
    assert plan.hfu / plan.mfu == pytest.approx(4 / 3, rel=0.02)
    none = predict(load_shape("gpt-22b"), replace(layout, recompute="none"), cluster)
    assert none.hfu == none.mfu


def test_a_layout_that_does_not_fill_the_cluster_is_refused():
    with pytest.raises(SettingError, match="do not fill the cluster's 16"):
        predict(GPT, Layout(tp=8, global_batch=8), load_cluster("a100:16"))


def counted(plan) -> dict[tuple[str, str], tuple[int, float]]:
    return {(c.kind, c.group): (c.count, c.bytes) for c in collectives_of(plan)}


def test_collectives_of_one_device_are_none():
    plan = predict(load_shape("smollm2-135m"), Layout(global_batch=4), load_cluster("h100:1"))
    assert collectives_of(plan) == []


def test_collectives_of_tensor_and_pipeline_parallelism():
    layout = Layout(dp=2, tp=8, pp=12, global_batch=32, zero=0, sequence_parallel=False)
    plan = predict(GPT, layout, load_cluster("a100:192"), MEGATRON_2021)
    found, tokens = counted(plan), 2048 * 12288 * 2.0
    assert found["all_reduce", "tp"] == (16 * 8 * 4, tokens)  # micro-batches × layers × (2 forward + 2 backward)
    assert found["send", "pp"] == (16 * 2, tokens / 8)
    assert found["all_reduce", "dp"][0] == 1
    full = counted(predict(GPT, replace(layout, recompute="full"), load_cluster("a100:192"), MEGATRON_2021))
    assert full["all_reduce", "tp"][0] == 16 * 8 * 6


def test_collectives_of_sharded_weights_and_experts():
    layout = Layout(dp=16, ep=8, global_batch=64, zero=3)
    plan = predict(MOE, layout, load_cluster("h200:16"))
    found = [c for c in collectives_of(plan) if c.group == "dp"]
    assert {(c.kind, c.size, c.count) for c in found} == {
        ("all_gather", 16, 8),
        ("reduce_scatter", 16, 4),
        ("all_gather", 2, 8),
        ("reduce_scatter", 2, 4),
    }
    count, rows = counted(plan)["all_to_all", "ep"]
    assert count == 4 * 94 * 4  # micro-batches × layers × (dispatch and combine, forward and backward)
    assert rows == 2.0 * 4096 * 8 * 4096


def test_collectives_of_context_parallelism():
    shape = load_shape("llama3-8b", seq_len=32768)
    plan = predict(shape, Layout(cp=4, global_batch=2), load_cluster("h100:4"))
    assert counted(plan)["all_gather", "cp"] == (2 * 32 * 2, 4.0 * 32768 * 8 * 128)


def test_rings_and_wires():
    link = Wire(100e9, 0.0)
    assert ring_seconds("all_reduce", 4, 100e9, link) == pytest.approx(1.5)
    assert ring_seconds("all_gather", 4, 100e9, link) == pytest.approx(0.75)
    assert ring_seconds("all_reduce", 1, 100e9, link) == 0
    cluster = load_cluster("a100:64")
    assert wire(cluster, 8, 1).bandwidth == pytest.approx(300e9 * cluster.domain_efficiency)
    one_each = wire(cluster, 8, 8).bandwidth  # one member in each node: one card's share
    assert one_each == pytest.approx(25e9 * cluster.network_efficiency)
    assert wire(cluster, 16, 1).bandwidth == pytest.approx(8 * one_each)
    assert wire(cluster, 16, 1, rails=False).bandwidth == pytest.approx(one_each)


def test_tokens_cross_domains_once_for_each_domain():
    _, inside = expert_wire(load_cluster("gb200:64"), Layout(ep=64), 8)
    assert inside == pytest.approx(63 / 64)
    _, across = expert_wire(load_cluster("h100:64"), Layout(ep=64), 8)
    domains = 8 * (1 - (7 / 8) ** 8) * 7 / 8
    assert across == pytest.approx(domains / 8)


def test_graphs_spare_launches():
    layout = Layout(dp=8, ep=8, global_batch=64)
    shape, cluster = load_shape("qwen3-30b-a3b"), load_cluster("b200:8")
    eager, graphs = (predict(shape, layout, cluster, stack) for stack in (MODERN, GRAPHS))
    assert graphs.parts["host"] < eager.parts["host"]
    assert graphs.step_seconds < eager.step_seconds
