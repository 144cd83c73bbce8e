"""Rooflines: bounds that physics sets, and steps that tiles make."""

from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.scaling.plan import load_cluster
from everlearn.scaling.plan.kernels import KERNEL_SECONDS, UNALIGNED, gemm_seconds, stream_seconds

A100 = load_cluster("a100:1").device
SIZES = st.integers(1, 4096).map(lambda n: 8 * n)


@settings(deadline=None)
@given(SIZES, SIZES, SIZES)
def test_never_faster_than_arithmetic_or_memory(m, n, k):
    seconds = gemm_seconds(m, n, k, A100)
    assert seconds >= 2 * m * n * k / A100.sustained("bf16")
    assert seconds >= stream_seconds(2 * (m * k + k * n + m * n), A100)
    assert seconds >= KERNEL_SECONDS


@settings(deadline=None)
@given(SIZES, SIZES, SIZES)
def test_more_work_takes_no_less_time(m, n, k):
    assert gemm_seconds(2 * m, n, k, A100) >= gemm_seconds(m, n, k, A100)
    assert gemm_seconds(m, n, k, A100, batch=3) >= gemm_seconds(m, n, k, A100)


def test_large_products_come_near_the_sustained_rate():
    seconds = gemm_seconds(16384, 16384, 16384, A100)
    assert 0.9 < 2 * 16384**3 / A100.sustained("bf16") / seconds <= 1


def test_a_wave_more_costs_a_wave():
    one = gemm_seconds(256 * 108, 128, 8192, A100)
    assert gemm_seconds(256 * 109, 128, 8192, A100) > 1.1 * one


def test_odd_widths_leave_tensor_cores_idle():
    assert gemm_seconds(2048, 2048, 108, A100, batch=64) > 0.5 / UNALIGNED * gemm_seconds(
        2048, 2048, 112, A100, batch=64
    )


def test_narrow_formats_are_faster():
    h100 = load_cluster("h100:1").device
    assert gemm_seconds(8192, 8192, 8192, h100, "fp8") < 0.6 * gemm_seconds(8192, 8192, 8192, h100)


def test_nothing_takes_no_time():
    assert gemm_seconds(0, 8, 8, A100) == 0
