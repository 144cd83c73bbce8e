"""BLOOM's layout sweep on Jean Zay's A100 (BigScience, tr11-176B-ml)."""

from __future__ import annotations

from dataclasses import replace

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import load_cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.published.cases import Case, Row, figures, number, positive
from everlearn.scaling.plan.stack import MEGATRON_2021

COLUMNS = {"gpus", "size_b", "tp", "pp", "mbs", "gbs", "sec_per_iter"}
JEAN_ZAY = {"network_gb_s": 6.25, "domain_gb_s": 100.0}  # four 100 Gb/s cards a node, four NVLinks a device
WIDTHS = (14336, 13824, 13312, 12288)


def read(row: Row, name: str) -> Case:
    """Rows of BLOOM's layout sweep: A100 80 GB, nodes with four 100 Gb/s cards, ZeRO-1, full recomputation.

    Defaults: vocabulary 250 880, 2048 tokens. Without layers or hidden the width is the one of the sweep's four whose
    whole number of layers comes nearest to the size, and until 20 February 14 400 with 80 heads, as it was begun.
    Without heads 64. dp is what fills the devices. Gradients have two bytes until 28 February, then six (bf16 and fp32
    sums). Where TFLOP/s times seconds is half as much again as the batch needs, or as little, the batch is theirs.
    """
    tp, pp = positive(number(row, "tp", 1), "tp"), positive(number(row, "pp", 1), "pp")
    told = number(row, "dp", 0)
    vocab, devices = 250880, positive(number(row, "gpus", told * tp * pp or None), "gpus")
    given = row.get("layers") and row.get("hidden")
    size = number(row, "size_b", number(row, "layers") * 12 * number(row, "hidden") ** 2 / 1e9 if given else None)
    begun = row.get("note", "")[:5] in ("02-17", "02-18", "02-19", "02-20") and not row.get("hidden")
    heads = positive(number(row, "heads", 80 if begun else 64), "heads")
    hidden = positive(number(row, "hidden"), "hidden") if row.get("hidden") else 0
    layers = positive(number(row, "layers"), "layers") if row.get("layers") else 0
    if begun:
        hidden, layers = 14400, layers or max(1, round(size * 1e9 / (12 * 14400**2)))
    elif not hidden or not layers:
        hidden, layers = _shape(size, hidden, layers, heads if row.get("heads") else 64, pp, vocab)
    if hidden % heads:
        heads = next(a for a in range(heads, 0, -1) if hidden % a == 0)
    shape = ModelShape(f"bloom-{size:g}b", layers, hidden, heads, 4 * hidden, vocab)
    layout = Layout(
        dp=max(1, devices // (tp * pp)),
        tp=tp,
        pp=pp,
        micro_batch=positive(number(row, "mbs", 1), "mbs"),
        global_batch=positive(number(row, "gbs", 2048), "gbs"),
        zero=int(number(row, "zero_stage", 1)),
        recompute="full",
        sequence_parallel=False,
        precision=row.get("dtype") or "bf16",
    )
    known = bool(row.get("hidden") and row.get("layers"))
    weights = shape.parameters + vocab * hidden if known else size * 1e9
    published = figures(row, {"sec_per_iter": "seconds", "mem_gb": "memory_gib", "tflops_hw": "tflops"})
    cluster = load_cluster(f"a100:{devices}", **JEAN_ZAY)
    counted = 8.0 * weights * shape.seq_len * layout.global_batch / devices / 1e12
    told = number(row, "tflops_hw", 0) * number(row, "sec_per_iter", 0)
    if told and not 1 / 1.5 < told / counted < 1.5:  # the batch of which TFLOP/s and seconds speak
        unit = layout.dp * layout.micro_batch
        layout = replace(layout, global_batch=unit * max(1, round(layout.global_batch * told / counted / unit)))
    stack = replace(STACK, gradient_bytes=6) if row.get("note", "")[:5] >= "02-28" else STACK
    return Case(name, shape, layout, cluster, stack, published, counted=8.0 * weights)


STACK = replace(MEGATRON_2021, name="megatron-deepspeed-2022", dropout=False, asynchronous=False, bucket_bytes=3e9)


def _shape(size: float, hidden: int, layers: int, heads: int, pp: int, vocab: int) -> tuple[int, int]:
    best: tuple[float, int, int] = (float("inf"), 0, 0)
    for h in (hidden,) if hidden else WIDTHS:
        exact = (size * 1e9 - vocab * h) / (12 * h * h)
        for n in (layers,) if layers else range(max(1, int(exact) - pp), int(exact) + pp + 1):
            if h % heads == 0 and (n % pp == 0 or (n + 2) % pp == 0):
                best = min(
                    best,
                    (
                        round(abs(n - exact) / exact, 3),
                        WIDTHS.index(h) if h in WIDTHS else 0,
                        n * 100000 + h,
                    ),
                )
    if not best[2]:
        raise SettingError(
            f"no width and layers give {size:g} B with {heads} heads over {pp} stages; give layers and hidden"
        )
    return best[2] % 100000, best[2] // 100000
