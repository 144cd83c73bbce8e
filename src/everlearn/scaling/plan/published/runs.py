"""Runs and benchmarks told in papers, model cards and logbooks: one row each, with many cells left out."""

from __future__ import annotations

import re
from dataclasses import replace

from everlearn.errors import SettingError
from everlearn.scaling.plan.cluster import Cluster, device_names, load_cluster
from everlearn.scaling.plan.config import ModelShape
from everlearn.scaling.plan.layout import Layout, slots
from everlearn.scaling.plan.plan import Plan, estimate
from everlearn.scaling.plan.published import bloom
from everlearn.scaling.plan.published.cases import Case, Row, figures, number, positive, told_size
from everlearn.scaling.plan.published.shapes import shape_of
from everlearn.scaling.plan.stack import EAGER, EAGER_GPT, MEGATRON_2021, MEGATRON_2022, MODERN, MODERN_2023, Stack

COLUMNS = {"id", "model", "device", "n_devices", "tp", "pp", "params_b"}
METRICS = {
    "iter_time_s": "seconds",
    "tokens_per_s_per_device": "tokens_per_s",
    "tflops_per_device": "tflops",
    "mfu_pct": "mfu",
    "hfu_pct": "hfu",
    "mem_gib_per_device": "memory_gib",
    "days": "days",
}
FLASH = 2302  # papers from February 2023 on trained with fused attention,
FLASH_3 = 2410  # and from October 2024 on with kernels made for Hopper
UNTOLD_BATCH = 4_000_000  # tokens of a step
UNTOLD_DEVICES = 1024  # of a run told by its device hours


def read(row: Row, name: str) -> Case:
    """Rows told by papers, with what they leave out filled in.

    Defaults: a shape by the model's name where it is a preset's, else from its sizes: kv_heads as heads, ffn 4 h or,
    of a gated layer, what fits the parameters, vocabulary 51 200, 2048 tokens; experts from the notes, else eight of a
    width that fits total and active parameters. dp fills the devices. Four million tokens a step. A micro-batch,
    recomputation, or a whole layout that is not told is the fastest that fits, as its authors would have tuned it; a
    pipeline's chunks are one before 2023 and then the fastest number up to eight. Attention is fused in papers from
    February 2023 on and on devices from Hopper on. FSDP without a pipeline is taken as plain PyTorch modules, and with
    one keeps weights gathered. Days count the run at full speed. Devices that are not told are those of the layout, or
    of device hours and days, or 1 024 where only hours are told; blocks and width those usual for the parameters; an
    unknown device with a peak is an H100 whose rates go with it.
    """
    row = row | {"n_devices": str(_devices(row))}
    published = figures(row, METRICS)
    if not published.get("days") and number(row, "device_hours", 0):
        published["days"] = number(row, "device_hours") / 24 / number(row, "n_devices")
    tokens = 1e9 * number(row, "tokens_trained_b", 0)
    if not tokens:
        published.pop("days", None)
    cluster = _cluster(row)
    narrow = number(row, "peak_tflops", 0) / cluster.device.tflops_bf16
    if narrow > 1:  # shares of a peak in fp8 are told as shares of the one in bf16
        published |= {name: narrow * published[name] for name in ("mfu", "hfu") if name in published}
    shape = shape_of(row)
    stack = _stack(row, cluster, shape)
    batch = float(told_size(row, "global_batch_seqs")) or max(1.0, UNTOLD_BATCH / shape.seq_len)
    plan = min(
        (estimate(shape, layout, cluster, stack) for layout in _layouts(row, shape, cluster, batch)),
        key=lambda plan: (not plan.fits, plan.memory.total if not plan.fits else 0, 1 / plan.tokens_per_second),
    )
    kept = row.get("notes", "")
    published = _without_buffers(plan, published) if "params+grads+optimizer" in kept else published
    return Case(name, shape, plan.layout, cluster, stack, published, tokens, _counted(row, shape, plan), batch)


def _devices(row: Row) -> int:
    """Devices as told, or as the whole layout, or device hours and days, make them."""
    if row["n_devices"]:
        return positive(number(row, "n_devices"), "n_devices")
    dp, tp, pp = (told_size(row, dim) for dim in ("dp", "tp", "pp"))
    if dp and tp and pp:
        return dp * tp * pp * max(1, told_size(row, "cp"))
    hours, days = number(row, "device_hours", 0), number(row, "days", 0)
    if hours and days:
        return positive(max(1.0, 8 * round(hours / days / 24 / 8)), "n_devices")
    if hours and number(row, "tokens_trained_b", 0):
        return UNTOLD_DEVICES
    raise SettingError("the number of devices is not told")


def _without_buffers(plan: Plan, published: dict[str, float]) -> dict[str, float]:
    """Figures computed as states and activations get the planner's buffers added, to compare like with like."""
    if "memory_gib" not in published:
        return published
    return published | {"memory_gib": published["memory_gib"] + plan.memory.buffers / 2**30}


def _counted(row: Row, shape: ModelShape, plan: Plan) -> float:
    again = "HFU" in row.get("tflops_counts", "") or "recompute" in row.get("tflops_counts", "")
    if again and plan.layout.recompute == "full":
        return shape.flops_per_token + shape.forward_flops() - 2 * shape.vocab * shape.hidden
    return shape.flops_per_token


def _cluster(row: Row) -> Cluster:
    told = re.sub(r"[^a-z0-9]", "", row["device"].lower())
    names = sorted(device_names(), key=len, reverse=True)
    found = next((name for name in names if name.replace("-", "") in told), None)
    if found is None and told and number(row, "peak_tflops", 0) > 0:
        return _unknown(row)
    if found is None:
        raise SettingError(f"device {row['device']!r} is not known" if told else "the device is not told")
    cluster = load_cluster(f"{found}:{positive(number(row, 'n_devices'), 'n_devices')}")
    if "bloom" in row["model"].lower():
        cluster = load_cluster(f"a100:{cluster.devices}", **bloom.JEAN_ZAY)
    device = cluster.device
    memory = number(row, "device_mem_gb", device.memory_gib)
    peak = number(row, "peak_tflops", device.tflops_bf16)
    if device.tflops_bf16 < peak:  # the row gives a peak in a narrower format
        peak = device.tflops_bf16
    if found == "a100" and memory == 40:
        return replace(cluster, device=load_cluster("a100-40gb:1").device)
    return replace(cluster, device=replace(device, memory_gib=memory, tflops_bf16=peak))


def _unknown(row: Row) -> Cluster:
    """A device of which only peak and memory are told: an H100 whose rates go with the peak."""
    cluster = load_cluster(f"h100:{positive(number(row, 'n_devices'), 'n_devices')}")
    times = number(row, "peak_tflops") / cluster.device.tflops_bf16
    device = replace(
        cluster.device,
        name=row["device"],
        tflops_bf16=cluster.device.tflops_bf16 * times,
        tflops_fp8=0.0,
        hbm_tb_s=cluster.device.hbm_tb_s * times,
        memory_gib=number(row, "device_mem_gb", cluster.device.memory_gib),
    )
    near, far = cluster.domain_gb_s * times, cluster.network_gb_s * times
    return replace(cluster, device=device, domain_gb_s=near, network_gb_s=far)


def _stack(row: Row, cluster: Cluster, shape: ModelShape) -> Stack:
    name = cluster.device.name
    if "bloom" in row["model"].lower():
        return replace(bloom.STACK, gradient_bytes=6)
    early = name.startswith(("v100", "a100", "a800")) and _month(row) < FLASH
    if name.startswith("tpu"):
        return replace(MODERN, name="xla", fused_attention=False, host_forward_us=0.0, expert_host_us=0.0)
    if not early:
        hidden = name == "h800" and "deepseek" in row["model"].lower()  # DualPipe computes while tokens travel
        if "fsdp" in row.get("sharding", "").lower() and number(row, "pp", 1) == 1:
            return EAGER if shape.gated else EAGER_GPT
        modern = MODERN if _month(row) >= FLASH_3 else MODERN_2023
        return replace(modern, overlap_experts=0.9) if hidden or "dualpipe" in str(row).lower() else modern
    if row.get("sharding") == "ZeRO-3":  # gathers of the first ZeRO-3 ran over one card of a node
        return replace(MEGATRON_2021, overlap_gradients=0.9, rails=False)
    return MEGATRON_2022 if _month(row) >= 2205 else MEGATRON_2021


def _layouts(row: Row, shape: ModelShape, cluster: Cluster, batch: float) -> list[Layout]:
    """The layouts that the row's cells leave open."""
    n = cluster.devices
    told = {dim: told_size(row, dim) for dim in ("tp", "pp", "cp", "ep", "vpp", "micro_batch")}
    if re.search("fsdp|zero-3", row.get("sharding", "").lower()):  # sharding in place of other cuts, unless told
        told |= {"tp": told["tp"] or 1, "pp": told["pp"] or 1}
    tps = [told["tp"]] if told["tp"] else [t for t in (1, 2, 4, 8) if shape.heads % t == 0 and n % t == 0]
    pps = [told["pp"]] if told["pp"] else [p for p in range(1, 65) if slots(shape, Layout(pp=p)) is not None]
    cp = max(1, told["cp"])
    found = []
    for tp in tps:
        for pp in pps:
            dp = max(1, n // (tp * pp * cp))
            if dp * tp * pp * cp != n and not (told["tp"] and told["pp"]):
                continue
            for ep in [told["ep"]] if told["ep"] else _experts(shape, dp * tp * cp):
                found += _filled(row, shape, Layout(dp=dp, tp=tp, pp=pp, cp=cp, ep=ep), batch, told)
    if not found:
        raise SettingError(f"no layout of {shape.layers} layers and {shape.heads} heads fills {n} devices")
    return found


def _filled(row: Row, shape: ModelShape, cut: Layout, batch: float, told: dict[str, int]) -> list[Layout]:
    micros = (
        [told["micro_batch"]] if told["micro_batch"] else [b for b in (1, 2, 4, 8) if b * cut.dp <= max(batch, cut.dp)]
    )
    chunks = [told["vpp"]] if told["vpp"] else _chunks(row, shape, cut)
    precision = row.get("precision", "").lower()
    kind = next((p for p in ("fp8", "fp16", "bf16") if precision.startswith(p)), "bf16")
    sharding = row.get("sharding", "").lower()
    zero = 3 if "zero-3" in sharding or "fsdp" in sharding else 0 if sharding == "none" else 1
    if zero == 3 and cut.pp > 1:  # gathering weights anew for each micro-batch is what nobody does with a pipeline
        zero = 2
    found = []
    for recompute, parallel in _recomputations(row.get("recompute", "")):
        for micro in micros:
            whole = max(1, round(batch / (cut.dp * micro))) * cut.dp * micro
            for v in chunks:
                found.append(
                    replace(
                        cut,
                        vpp=v,
                        micro_batch=micro,
                        global_batch=whole,
                        zero=zero,
                        recompute=recompute,
                        sequence_parallel=parallel,
                        precision=kind,
                    )
                )
    return found


def _chunks(row: Row, shape: ModelShape, cut: Layout) -> list[int]:
    if cut.pp == 1 or _month(row) < FLASH:
        return [1]
    return [v for v in range(1, 9) if slots(shape, replace(cut, vpp=v)) is not None] or [1]


def _month(row: Row) -> int:
    """Year and month of the paper, 2302, or the year its source or notes tell (FSDP without a paper: 2023).

    Of a row that tells neither, by its device: 2301 up to the A100 and TPU v3, 2500 from Blackwell on.
    """
    source = row.get("source", "")
    if found := re.search(r"(?:arXiv:|\b)(2[0-9](?:0[1-9]|1[0-2]))\.\d{4,5}", source, re.IGNORECASE):
        return int(found.group(1))
    if found := re.search(r"\b20(1[7-9]|2\d)(?:-(0[1-9]|1[0-2]))?\b", f"{source} {row.get('notes', '')}"):
        return 100 * int(found.group(1)) + int(found.group(2) or 6)
    if "fsdp" in row.get("sharding", "").lower():
        return 2306
    device = row["device"].lower()
    return 2301 if re.search(r"[va]100|a800|tpu v[23]", device) else 2500 if re.search(r"b[23]00", device) else 2400


def _recomputations(told: str) -> list[tuple[str, bool]]:
    """Recomputation and sequence parallelism."""
    if not told:
        return [("none", True), ("selective", True), ("full", True)]
    kind = "selective" if "sel" in told else "none" if told == "none" else "full"
    return [(kind, kind != "full" or "sequence" in told)]


def _experts(shape: ModelShape, devices: int) -> list[int]:
    if not shape.experts:
        return [1]
    return [e for e in (1, 2, 4, 8, 16, 32, 64) if shape.experts % e == 0 and devices % e == 0]
