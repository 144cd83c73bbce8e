"""vTrain's measured iterations of GPT on A100 (Bang et al. 2024), one node and many."""

from __future__ import annotations

from everlearn.scaling.plan.cluster import load_cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout
from everlearn.scaling.plan.published.cases import Case, Row, figures, number, positive
from everlearn.scaling.plan.stack import MEGATRON_2021

COLUMNS = {
    "hidden size",
    "# layers",
    "attention heads",
    "sequence length",
    "data parallelism",
    "tensor parallelism",
    "pipeline parallelism",
    "micro batch",
    "global batch",
    "iteration time (ms)",
}


def read(row: Row, name: str) -> Case:
    """vTrain's rows: GPT on A100, Megatron of 2021, fp16, full recomputation, no ZeRO.

    Defaults: vocabulary 51 200; nodes of eight with four 200 Gb/s cards (100 GB/s a node). Cells that are empty: heads
    of 128, 2048 tokens, micro-batch and tensor and pipeline parallelism 1, layers by the parameters, data parallelism
    what fills the devices. Width and batch must be there.
    """

    def cell(column: str, default: float | None = None) -> int:
        return positive(number(row, column, default), column)

    h, tp, pp = cell("hidden size"), cell("tensor parallelism", 1), cell("pipeline parallelism", 1)
    size = 1e9 * number(row, "Parameters (billion)", 0)
    gpus = next((number(row, column, 0) for column in row if "GPUs" in column), 0.0)
    shape = ModelShape(
        name=f"gpt-h{h}",
        layers=cell("# layers", round((size - 51200 * h) / (12 * h * h)) if size else None),
        hidden=h,
        heads=cell("attention heads", max(1, h // 128)),
        ffn=4 * h,
        vocab=51200,
        seq_len=cell("sequence length", 2048),
        positions=True,
    )
    layout = Layout(
        dp=cell("data parallelism", gpus // (tp * pp) or None),
        tp=tp,
        pp=pp,
        micro_batch=cell("micro batch", 1),
        global_batch=cell("global batch"),
        zero=0,
        recompute="full",
        sequence_parallel=False,
        precision="fp16",
    )
    published = {metric: 1e-3 * ms for metric, ms in figures(row, {"iteration time (ms)": "seconds"}).items()}
    cluster = load_cluster(f"a100:{layout.devices}", network_gb_s=12.5)
    return Case(name, shape, layout, cluster, MEGATRON_2021, published)
