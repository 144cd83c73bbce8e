"""Memory against closed forms from the papers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.scaling.plan import Layout, load_shape
from everlearn.scaling.plan.memory import activation_bytes, block_activations, memory_of, state_bytes, weights_of
from everlearn.scaling.plan.stack import MEGATRON_2021, MODERN

GPT = load_shape("gpt-22b")


@settings(deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_activations_are_korthikantis_formula(tp, micro):
    s, h, a = GPT.seq_len, GPT.hidden, GPT.heads
    layout = Layout(tp=tp, micro_batch=micro, global_batch=micro)
    found = block_activations(GPT, layout, MEGATRON_2021, "none") / GPT.layers
    assert found == pytest.approx(s * micro * h * (34 + 5 * a * s / h) / tp)
    selective = block_activations(GPT, layout, MEGATRON_2021, "selective") / GPT.layers
    assert selective == pytest.approx(s * micro * h * 34 / tp)


def test_without_sequence_parallelism_norms_are_whole():
    layout = Layout(tp=8, sequence_parallel=False)
    s, h, a = GPT.seq_len, GPT.hidden, GPT.heads
    found = block_activations(GPT, layout, MEGATRON_2021, "none") / GPT.layers
    assert found == pytest.approx(s * h * (10 + 24 / 8 + 5 * a * s / (8 * h)))


def test_figure_1_of_korthikanti():
    """530 B: 23.08 GiB of activations with selective recomputation and sequence parallelism."""
    layout = Layout(tp=8, pp=35, vpp=3, global_batch=280, recompute="selective")
    found = activation_bytes(load_shape("gpt-530b"), layout, MEGATRON_2021) / 2**30
    assert found == pytest.approx(23.076, rel=0.002)


@settings(deadline=None)
@given(st.sampled_from([1, 2, 8, 64]), st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 8, 16]))
def test_zero_divides_what_it_says(dp, tp, pp):
    weights = [state_bytes(GPT, Layout(dp=dp, tp=tp, pp=pp, zero=z), MODERN) for z in range(4)]
    plain = sum(weights_of(GPT, Layout(dp=dp, tp=tp, pp=pp)))
    assert weights[0] == pytest.approx((2 * plain, 2 * plain, 12 * plain))
    assert weights[1][2] == pytest.approx(16 * plain / dp)  # with an fp32 copy of its share of the gradients
    assert weights[2][1] == pytest.approx(2 * plain / dp)
    assert weights[3][0] == pytest.approx(2 * plain / dp)


def test_all_stages_together_hold_all_parameters():
    shape = load_shape("deepseek-v3")
    dense, routed = weights_of(shape, Layout(dp=8, ep=8))
    assert dense + 8 * routed == pytest.approx(shape.parameters)


def test_recomputation_lowers_memory_in_order():
    for stack in (MODERN, MEGATRON_2021):
        sizes = [memory_of(GPT, Layout(tp=8, recompute=r), stack).total for r in ("none", "selective", "full")]
        assert sizes[0] > sizes[1] > sizes[2]
