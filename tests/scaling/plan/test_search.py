"""Search, explanation, cost, failures, export."""

import tomllib
from itertools import product

import pytest

from everlearn.errors import SettingError
from everlearn.scaling.plan import Layout, load_cluster, load_shape, predict, search
from everlearn.scaling.plan.cost import cost_of
from everlearn.scaling.plan.explain import CAUSES, REMEDIES, batch, explain, limit, shares
from everlearn.scaling.plan.export import as_json, as_pretrain
from everlearn.scaling.plan.failures import failures_of, young
from everlearn.scaling.plan.request import Request, amount, fitting_batch, read_request
from everlearn.scaling.plan.search import SAFE, batches

H100 = load_cluster("h100:64")
LLAMA = load_shape("llama3-70b")


@pytest.fixture(scope="module")
def plans():
    return search(LLAMA, H100, 256)


def test_search_is_sorted_and_fits(plans):
    speeds = [plan.tokens_per_second for plan in plans]
    assert speeds == sorted(speeds, reverse=True)
    assert all(plan.memory.total <= SAFE * 80 * 2**30 for plan in plans)


def test_search_beats_or_meets_every_layout_by_hand(plans):
    for tp, pp, micro, recompute in product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2), ("none", "selective", "full")):
        layout = Layout(64 // tp // pp, tp, pp, 1, 1, 1, micro, 256, 1, recompute, tp > 1)
        plan = predict(LLAMA, layout, H100)
        if plan.memory.total <= SAFE * 80 * 2**30:
            assert plan.step_seconds >= plans[0].step_seconds


def test_what_fits_nowhere_is_refused():
    with pytest.raises(SettingError, match="fits no layout on 8 devices: the leanest, dp1 tp8 pp1, needs"):
        search(load_shape("dense-1t"), load_cluster("h100:8"), 64)
    found = r"no layout fills 13 devices: .* tp may be 1 .* pp 1 \(of 96 layers\), and no dp .* 7 sequences"
    with pytest.raises(SettingError, match=found):
        search(load_shape("gpt-175b"), load_cluster("h100:13"), 7)


def test_the_batch_is_adapted_to_layouts_that_do_not_divide_it():
    shape, cluster = load_shape("dense-1t"), load_cluster("a100:3072")
    found = search(shape, cluster, 2048)
    assert {plan.layout.global_batch % (plan.layout.dp * plan.layout.micro_batch) for plan in found} == {0}
    assert all(abs(plan.layout.global_batch / 2048 - 1) <= 0.1 for plan in found)
    best = found[0]
    assert best.layout.dp % 3 == 0  # 3072 = 3 × 1024, and 128 layers have no 3
    assert f"of the 4 M asked for do not divide by dp {best.layout.dp} × micro-batch" in batch(best, 4e6)
    predict(shape, best.layout, cluster)  # its checks pass
    assert all(plan.layout.global_batch == 256 for plan in search(LLAMA, H100, 256))


def test_batches_keep_what_divides_and_take_the_nearest_where_it_does_not():
    assert {cut.global_batch for cut in batches(Layout(dp=8, pp=4), 64)} == {64}
    odd = list(batches(Layout(dp=6, pp=64), 2048))
    assert [(cut.micro_batch, cut.global_batch) for cut in odd] == [
        (1, 1920),
        (1, 2046),
        (2, 2052),
        (4, 2040),
        (8, 2064),
    ]
    assert list(batches(Layout(dp=5), 2)) == []


def test_long_sequences_try_context_parallelism():
    shape = load_shape("llama3-8b", seq_len=131072)
    assert any(plan.layout.cp > 1 for plan in search(shape, load_cluster("h100:16"), 16))


def test_progress_is_told():
    seen = []
    search(load_shape("llama3-8b"), load_cluster("h100:8"), 64, moment=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen) - 1


def test_explanation_names_memory_limit_failures_and_rivals(plans):
    lines = explain(plans[0], plans)
    assert "of 80 GiB a device: weights" in lines[0]
    assert lines[1].startswith("limited by ")
    assert "goodput" in lines[2]
    assert any("slower" in line for line in lines[3:])


def test_every_cause_has_words_and_a_remedy(plans):
    names = set().union(*(plan.parts for plan in plans))
    assert names <= set(CAUSES) == set(REMEDIES)
    assert sum(share for _, share in shares(plans[0])) == pytest.approx(1, abs=0.05)


def test_a_long_pipeline_is_limited_by_its_bubble():
    layout = Layout(dp=1, tp=8, pp=12, global_batch=12)
    plan = predict(load_shape("gpt-175b"), layout, load_cluster("h100:96"))
    assert limit(plan).startswith("limited by the pipeline's bubble")


def test_cost_scales_with_tokens(plans):
    one, ten = cost_of(plans[0], 1e12), cost_of(plans[0], 1e13)
    for name in ("days", "usd", "megawatt_hours", "steps", "device_hours"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    assert one.usd == pytest.approx(one.device_hours * H100.device.usd_per_hour)


def test_youngs_interval_loses_least():
    c, m = 30.0, 50000.0
    best = young(c, m)
    assert all(c / best + best / (2 * m) <= c / t + t / (2 * m) for t in (best / 2, best * 0.9, best * 1.1, best * 2))


def test_goodput_falls_with_the_size_of_the_cluster():
    small = failures_of(search(LLAMA, H100, 256)[0])
    large = failures_of(search(LLAMA, load_cluster("h100:4096"), 4096)[0])
    assert 0 < large.goodput < small.goodput < 1
    assert small.mean_time / large.mean_time == pytest.approx(64)


def test_json_has_the_figures(plans):
    found = as_json(plans[0], cost_of(plans[0], 1e12))
    assert found["memory_gib"]["total"] == pytest.approx(plans[0].memory.total / 2**30)
    assert found["layout"]["devices"] == 64
    assert {"mfu", "hfu", "failures", "cost", "parts", "fits"} <= set(found)


def test_exported_configuration_comes_back(plans, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(as_pretrain(plans[0], 1e12))
    request = read_request(file)
    assert request.shape.parameters == LLAMA.parameters
    again = predict(request.shape, request.chosen(64, request.global_batch), H100)
    assert again.step_seconds == pytest.approx(plans[0].step_seconds)
    assert tomllib.loads(file.read_text())["train"]["steps"] == pytest.approx(1e12 / plans[0].tokens_per_step, abs=1)


def test_exported_configuration_is_one_that_pretrain_takes(plans):
    settings = pytest.importorskip("everlearn.scaling.settings")
    found = settings.Settings.of(tomllib.loads(as_pretrain(plans[0], 1e12, "llama3-70b")))
    assert found.layout.tp == plans[0].layout.tp


def test_fp8_plans_say_that_pretrain_has_it_not():
    plan = predict(LLAMA, Layout(8, 8, 1, global_batch=64, precision="fp8"), H100)
    assert "# planned in fp8" in as_pretrain(plan, 1e9)


def test_dp_fills_the_devices():
    request = Request(LLAMA, layout={"tp": 8})
    assert request.chosen(64, 64).dp == 8
    with pytest.raises(SettingError, match="= 8 does not divide 60 devices"):
        request.chosen(60, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[layout]\ntp = 8", r"no \[model\] table"),
        ("[model]\npreset = 'llama3-8b'\n[layout]\ntpp = 8", "unknown layout setting 'tpp'"),
        ("[model]\npreset = 'llama3-8b'\n[layout]\ntp = '8'", "layout tp is '8'; expected int"),
        ("[model]\npreset = 'llama3-8b'\n[layout]\nprecision = 'fp32'", "precision is 'fp32'"),
        (
            "[model]\npreset = 'llama3-8b'\n[train]\nglobal_batch = 'big'",
            "global_batch is 'big'; expected a whole",
        ),
        ("[model]\npreset = 'llama3-8b'\n[train]\nglobal_batch = -4", "global_batch is -4; expected a whole"),
        ("[model", "not readable TOML"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(SettingError, match=message):
        read_request(file)


def test_a_preset_in_a_file_can_be_changed(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[model]\npreset = 'llama3-8b'\nlayers = 16\n[train]\nseq_len = 4096\nglobal_batch = 32")
    request = read_request(file)
    assert (request.shape.layers, request.shape.seq_len, request.global_batch) == (16, 4096, 32)
    assert request.shape.attention_layers == request.shape.ffn_layers == 16


def test_amounts():
    assert amount("450B", "tokens") == 450e9
    assert [amount(text, "tokens") for text in (".5T", "5.", "1,000,000", "1e6K")] == [5e11, 5, 1e6, 1e9]
    for text in ("", "many", "-3T", "0", "1.2.3T", "3X", ".", ".T", "1,5T", "10,00", "1e", "nan", "inf", "1e999"):
        with pytest.raises(SettingError, match="expected a number above 0"):
            amount(text, "tokens")


def test_batch_shares_factors_with_the_devices():
    assert fitting_batch(4e6, load_shape("dense-1t"), 3072) % 256 == 0
    assert fitting_batch(1, load_shape("dense-1t"), 8) == 1
