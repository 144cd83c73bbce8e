"""The five formats, what is refused, and the goals on the shared rows."""

import random
from pathlib import Path

import pytest

from everlearn.errors import SettingError
from everlearn.scaling.plan.plan import estimate
from everlearn.scaling.plan.published import Case, Refused, read_cases
from everlearn.scaling.plan.validate import validate

SHARED = Path(__file__).parents[3] / "../shared/data/scaling"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the published runs are not here (../shared/data/scaling)")

VTRAIN = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,"
    "tensor parallelism,data parallelism,pipeline parallelism,iteration time (ms)\n"
)
BLOOM = "line,gpus,size_b,layers,hidden,heads,dp,tp,pp,mbs,gbs,zero_stage,mem_gb,sec_per_iter,tflops_hw,dtype,note\n"
BRIDGE = (
    "container,section,model,System,#-GPUs,Precision,GBS,MBS,Sequence Length,TP,PP,CP,VP,EP,Tokens / sec / GPU,"
    "Model TFLOP / sec / GPU,source,FSDP,Model,GA\n"
)
RUNS = (
    "id,model,kind,params_b,active_params_b,layers,hidden,heads,kv_heads,ffn,vocab,seq_len,global_batch_seqs,"
    "micro_batch,device,device_mem_gb,peak_tflops,precision,n_devices,tp,pp,vpp,dp,cp,ep,sharding,recompute,"
    "tflops_per_device,tflops_counts,mfu_pct,hfu_pct,iter_time_s,tokens_per_s_per_device,tokens_trained_b,days,"
    "device_hours,mem_gib_per_device,mem_note,notes,source,source_status\n"
)


def run_row(**cells: object) -> str:
    """A row of the fifth format with the given cells."""
    return ",".join(str(cells.get(name, "")) for name in RUNS.strip().split(",")) + "\n"


def cases(tmp_path: Path, text: str) -> list[Case | Refused]:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    return read_cases(file)[1]


def test_vtrain_rows(tmp_path):
    (case,) = cases(tmp_path, VTRAIN + "64,512,8,3072,32,30,2048,1,64,1,3566.5\n")
    assert (case.layout.dp, case.layout.microbatches, case.layout.recompute) == (64, 1, "full")
    assert case.published == {"seconds": 3.5665}


def test_empty_cells_of_vtrain_get_defaults(tmp_path):
    case, silent = cases(
        tmp_path,
        "Parameters (billion),"
        + VTRAIN
        + "3.6,64,512,,3072,,,,,,,3566.5\n"
        + "3.6,64,512,8,3072,32,30,2048,1,64,1,0\n",
    )
    assert (case.layout.dp, case.layout.micro_batch, case.shape.heads, case.shape.seq_len) == (64, 1, 24, 2048)
    assert case.shape.layers == 30
    assert silent.published == {}


def test_absurd_rows_are_refused_and_unmeasured_ones_predicted(tmp_path):
    absurd, silent = cases(
        tmp_path,
        BLOOM
        + "1,384,176,,,1e9,8,4,12,2,2048,1,59,102.03,153.68,bf16,02-28\n"
        + "2,384,176,,,64,8,4,12,2,2048,1,,,,bf16,02-28\n",
    )
    assert "1e+08 at most" in absurd.reason
    assert silent.published == {}
    found = validate(tmp_path / "rows.csv").as_json()
    assert found["rows"] == [] and len(found["refused"]) == 1
    assert [row["row"] for row in found["unmeasured"]] == ["2"]
    assert 50 < found["unmeasured"][0]["predicted"]["seconds"] < 200


def test_bloom_rows_fill_in_what_is_missing(tmp_path):
    late, begun, plain = cases(
        tmp_path,
        BLOOM
        + "947,384,176,,,64,8,4,12,2,2048,1,59,102.03,153.68,bf16,02-28\n"
        + "484,384,183,,,,4,8,12,1,2048,1,30,172.40,90.84,bf16,02-20\n"
        + "724,384,181,72,14336,16,8,8,6,4,2048,1,54,121.03,133.2,bf16,02-24\n",
    )
    assert (late.shape.layers, late.shape.hidden, late.stack.gradient_bytes) == (70, 14336, 6)
    assert (begun.shape.hidden, begun.shape.heads, begun.stack.gradient_bytes) == (14400, 80, 2)
    assert (plain.shape.layers, plain.shape.heads, plain.layout.dp) == (72, 16, 8)


def test_a_row_that_contradicts_itself_has_the_batch_that_its_figures_speak_of(tmp_path):
    (row,) = cases(tmp_path, BLOOM + "658,8,18,6,14336,,,8,1,2,2048,1,54,130.43,143.48,bf16,02-21\n")
    told = 143.48e12 * 130.43 * 8 / (8 * 2048 * row.shape.parameters)
    assert row.layout.global_batch == pytest.approx(told, rel=0.2)


def test_bridge_rows(tmp_path):
    first, second, lora, unknown = cases(
        tmp_path,
        BRIDGE
        + "25.09 NeMo,Pre,LLAMA3.1_405B,DGX-GB200,128,,64,1,8192,2 (4),1 (8),1 (2),1 (8),1,729 (578),1840,s,64 (0),,\n"
        + "26.06.01 NeMo,Pre,GPT OSS 120B,DGX-GB300,64,MXFP8,1280,4,4096,1,1,1,n/a,16,20288,661[^note],s,,,\n"
        + "26.06 NeMo,LoRA Performance,LLAMA3_70B,DGX-GB300,8,FP8,32,1,4096,1,2,1,20,n/a,7481,2086,s,,,\n"
        + "26.08 NeMo,Pre,Mystery_9,DGX-GB200,8,MXFP8,512,2,8192,1,1,1,n/a,8,28672,807,s,,,\n",
    )
    assert (first.layout.tp, first.layout.zero, first.layout.precision) == (2, 3, "fp8")
    assert first.published == {"tokens_per_s": 729, "tflops": 1840}
    assert (second.layout.precision, second.layout.ep, second.stack.name) == ("mxfp8", 16, "graphs")
    assert lora.stack.frozen and lora.counted == pytest.approx(2 / 3 * 3 * lora.shape.forward_flops(causal=True))
    assert "nor is one alike" in unknown.reason


def test_an_unknown_model_takes_the_shape_of_the_one_alike(tmp_path):
    (case,) = cases(
        tmp_path,
        BRIDGE + "26.08 NeMo,Pre,Nemotron_3_Nanos,DGX-GB200,8,MXFP8,512,2,8192,1,1,1,n/a,8,28672,807,s,,,\n",
    )
    told = 807e12 / 28672
    assert 3 * case.shape.forward_flops() == pytest.approx(told, rel=0.05)


def test_frozen_weights_take_two_thirds_of_the_time_and_hardly_any_memory(tmp_path):
    text = "26.06 NeMo,{} Performance,LLAMA3_70B,DGX-GB300,8,FP8,32,1,4096,1,2,1,20,n/a,7481,2086,s,,,\n"
    lora, full = cases(tmp_path, BRIDGE + text.format("LoRA") + text.format("SFT"))
    less, all_ = (estimate(c.shape, c.layout, c.cluster, c.stack) for c in (lora, full))
    assert 0.6 < less.step_seconds / all_.step_seconds < 0.75
    assert less.memory.gradients == less.memory.optimiser == 0


def test_published_runs_fill_in_what_is_missing(tmp_path):
    told = {"kind": "dense", "device": "A100-SXM-80GB", "n_devices": 64, "tp": 8, "pp": 8, "global_batch_seqs": 64}
    full, gated, moe = cases(
        tmp_path,
        RUNS
        + run_row(id="a", model="GPT 175B", layers=96, hidden=12288, params_b=175, recompute="full", mfu_pct=40, **told)
        + run_row(id="b", model="X", layers=32, hidden=4096, heads=32, params_b=6.7, vocab=32000, mfu_pct=40, **told)
        + run_row(
            id="c", model="Y", layers=32, hidden=4096, params_b=140, active_params_b=20, mfu_pct=30,
            notes="64 experts; 8 active; expert 2048", **(told | {"kind": "moe", "device": "H100"}),
        ),
    )  # fmt: skip
    assert (full.shape.heads, full.layout.micro_batch, full.layout.dp) == (96, 1, 1)
    assert full.stack.name == "megatron-2022"
    assert gated.shape.parameters == pytest.approx(6.7e9, rel=0.05)
    assert (moe.shape.experts, moe.shape.top_k, moe.shape.expert_ffn) == (64, 8, 2048)
    assert moe.stack.name == "modern-2023"


def test_sharding_decides_the_layout_and_the_stack(tmp_path):
    told = {
        "model": "X",
        "layers": 32,
        "hidden": 4096,
        "params_b": 6.7,
        "n_devices": 64,
        "mfu_pct": 40,
        "device": "H100",
    }
    plain, cut, fast = cases(
        tmp_path,
        RUNS
        + run_row(id="a", sharding="FSDP", **told)
        + run_row(id="b", sharding="FSDP", tp=8, pp=4, **told)
        + run_row(id="c", **told),
    )
    assert (plain.layout.tp, plain.layout.pp, plain.layout.zero) == (1, 1, 3)
    assert plain.stack.name == ("eager" if plain.shape.gated else "eager-gpt")
    assert (cut.layout.dp, cut.layout.zero, cut.stack.name) == (2, 2, "modern-2023")
    assert fast.layout.devices == 64


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"device": "H100", "mfu_pct": 40}, "number of devices is not told"),
        ({"device": "Abacus", "n_devices": 8, "mfu_pct": 40}, "device 'Abacus' is not known"),
        ({"n_devices": 8, "mfu_pct": 40}, "device is not told"),
        ({"device": "H100", "n_devices": 8, "mfu_pct": 40}, "layers and hidden are not told, nor parameters"),
        ({"device": "H100", "n_devices": "many", "mfu_pct": 40}, "'n_devices' is 'many'"),
    ],
)
def test_rows_that_cannot_be_predicted_say_why(tmp_path, cells, reason):
    (row,) = cases(tmp_path, RUNS + run_row(id="x", model="X", **cells))
    assert isinstance(row, Refused)
    assert reason in row.reason


def test_little_told_is_filled_in(tmp_path):
    told = {"model": "X", "params_b": 70, "mfu_pct": 40}
    hours, only, layout, strange, alias, old, new, moe = cases(
        tmp_path,
        RUNS
        + run_row(id="a", device="H100", device_hours=24 * 10 * 512, days=10, tokens_trained_b=100, **told)
        + run_row(id="h", device="H100", device_hours=24 * 10 * 512, tokens_trained_b=100, **told)
        + run_row(id="b", device="H100", tp=8, pp=4, dp=16, **told)
        + run_row(id="c", device="Abacus 9", peak_tflops=500, device_mem_gb=96, n_devices=64, **told)
        + run_row(id="d", device="H100", n_devices=64, **(told | {"model": "Llama 3.1 405B"}))
        + run_row(id="e", device="A100", n_devices=64, source="arXiv:2205.01068", sharding="FSDP", **told)
        + run_row(id="f", device="A100", n_devices=64, source="a README of 2023", sharding="FSDP", **told)
        + run_row(id="g", device="H100", n_devices=64, kind="moe", active_params_b=13, **told),
    )
    assert (hours.cluster.devices, layout.cluster.devices) == (512, 512)
    assert only.published["days"] * only.cluster.devices == 10 * 512
    assert hours.shape.parameters == pytest.approx(70e9, rel=0.15)
    assert (strange.cluster.device.name, strange.cluster.device.memory_gib) == ("Abacus 9", 96)
    assert alias.shape.layers == 126
    assert not old.stack.fused_attention and new.stack.name.startswith("eager")
    assert moe.shape.experts >= moe.shape.top_k


def test_a_share_of_an_fp8_peak_is_told_as_one_of_the_bf16_peak(tmp_path):
    told = {"model": "Llama 3 70B", "device": "H100", "n_devices": 64, "precision": "fp8", "mfu_pct": 30}
    wide, narrow = cases(tmp_path, RUNS + run_row(peak_tflops=989, **told) + run_row(peak_tflops=1978, **told))
    assert (wide.published["mfu"], narrow.published["mfu"]) == (30, 60)


def test_columns_may_be_missing_and_the_nearest_format_is_taken(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("hidden size,# layers,global batch,tensor parallelism,data parallelism,pipeline parallelism,"
                    "iteration time (ms)\n3072,30,512,1,64,1,3566.5\n")  # fmt: skip
    kind, (case,) = read_cases(file)
    assert kind == "vtrain" and case.shape.seq_len == 2048


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "expected those of a known format"),
        (VTRAIN, "has a header but no rows"),
        ('a,"b\n1', "expected those of a known format"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(SettingError, match=message) as error:
        read_cases(file)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"cannot read none\.csv: No such file"):
        read_cases(tmp_path / "none.csv")
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SettingError, match="it is not text"):
        read_cases(file)


def test_bad_cells_are_refused_row_by_row(tmp_path):
    good = "64,512,8,3072,32,30,2048,1,64,1,3566.5\n"
    rows = cases(tmp_path, VTRAIN + good.replace("3072", "wide") + good.replace("3072", "0") + "64,512\n" + good)
    assert [isinstance(row, Refused) for row in rows] == [True, True, True, False]
    assert "'hidden size' is 'wide'; expected a number" in rows[0].reason


def test_cells_that_make_no_sense_are_refused_and_never_crash(tmp_path):
    rng = random.Random(0)
    junk = ("", "n/a", "0", "-1", "x", "1e30", "7")
    run = run_row(id="a", model="GPT 175B", params_b=175, layers=96, hidden=12288, heads=96, device="A100", tp=8,
                  n_devices=64, pp=8, micro_batch=1, global_batch_seqs=64, recompute="full", days=9)  # fmt: skip
    bridge = "26.06 NeMo,Pre,Mixtral 8x7B,DGX-H100,64,FP8,1280,1,4096,1,4,1,8,8,20288,661,s,,,\n"
    for text in (VTRAIN + "64,512,8,3072,32,30,2048,1,64,1,3566.5\n", RUNS + run, BRIDGE + bridge):
        header, row = text.splitlines()[0], text.splitlines()[-1].split(",")
        lines = [[rng.choice(junk) if rng.random() < 0.2 else cell for cell in row] for _ in range(60)]
        file = tmp_path / "rows.csv"
        file.write_text("\n".join([header, *(",".join(line) for line in lines)]))
        found = validate(file)
        told = {c.row for c in found.comparisons} | {r.name for r in found.refused}
        assert found.refused and found.comparisons and told
        assert all(refused.reason for refused in found.refused)


@shared
def test_goal_on_the_eight_times_of_2205_05198():
    found = validate(SHARED / "published_runs.csv")
    errors = [abs(c.error) for c in found.comparisons if c.metric == "seconds" and c.row.startswith("korthikanti_t5")]
    assert len(errors) == 8
    assert sum(errors) / 8 <= 0.04


@shared
@pytest.mark.parametrize(
    ("file", "metric", "goal"),
    [
        ("vtrain_ground_truth_multi.csv", "seconds", 0.10),
        ("vtrain_ground_truth_single.csv", "seconds", 0.09),
        ("bloom_tr11_layout_sweep.csv", "memory_gib", 0.10),
        ("bloom_tr11_layout_sweep.csv", "seconds", 0.06),
        ("megatron_bridge_perf.csv", "tokens_per_s", 0.09),
    ],
)
def test_goals_on_the_shared_rows(file, metric, goal):
    assert validate(SHARED / file).means[metric]["mean_abs_error"] <= goal


@shared
def test_every_row_is_predicted_or_refused_with_a_reason():
    for file in SHARED.glob("*.csv"):
        rows = len(file.read_text().splitlines()) - 1
        kind, found = read_cases(file)
        assert len(found) == rows, kind
        assert all(row.reason for row in found if isinstance(row, Refused))
