"""Time of the kernels a transformer is made of, by a roofline with tiles and waves."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from everlearn.scaling.plan.cluster import Device

# Output tiles of a matrix product: rows, columns, and what a processor reaches of its peak on them. A smaller tile
# moves more bytes for each product: intensity goes with m n / (m + n), which the caches soften.
TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))
RAMP = 118  # depth of the inner loop that a tile spends on filling its pipeline and writing its result
UNALIGNED = 1 / 12  # rate where a dimension is no multiple of 8: tensor cores stand idle
KERNEL_SECONDS = 3.8e-6  # shortest kernel


@lru_cache(maxsize=65536)
def gemm_seconds(m: int, n: int, k: int, device: Device, precision: str = "bf16", batch: int = 1) -> float:
    """Seconds of ``batch`` products ``[m, k] × [k, n]``.

    Tiles of the result go to the processors in waves; the last wave may be nearly empty. Deep products with few tiles
    are split along k. Below, the roofline of memory.

    Examples
    --------
    >>> from everlearn.scaling.plan import load_cluster
    >>> a100 = load_cluster("a100:1").device
    >>> round(2 * 8192**3 / gemm_seconds(8192, 8192, 8192, a100) / 1e12) <= 312
    True
    """
    if min(m, n, k, batch) < 1:
        return 0.0
    size = {"fp8": 1.0, "mxfp8": 1.0, "nvfp4": 0.6}.get(precision, 2.0)
    memory = batch * (size * (m * k + k * n) + 2 * m * n) / device.bandwidth
    rate = device.sustained(precision) / device.processors
    if precision in ("bf16", "fp16") and (k % 8 or n % 8):
        rate *= UNALIGNED
    best = float("inf")
    for rows, columns, share in TILES:
        tiles = batch * ceil(m / rows) * ceil(n / columns)
        for split in (1, 2, 4, 8):
            if split > 1 and (tiles >= device.processors or k // split < 512):
                break
            waves = ceil(tiles * split / device.processors)
            best = min(best, waves * 2 * rows * columns * (k / split + RAMP) / (rate * share))
    return max(best, memory) + KERNEL_SECONDS


def stream_seconds(size: float, device: Device) -> float:
    """Seconds to read or write ``size`` bytes of memory."""
    return size / device.bandwidth
