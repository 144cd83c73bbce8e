"""Layouts that divide, and the sentence for each that does not."""

import pytest

from everlearn.errors import SettingError
from everlearn.scaling.plan import Layout, load_shape
from everlearn.scaling.plan.layout import slots

GPT = load_shape("gpt-175b")  # 96 layers, 96 heads
MOE = load_shape("moe-1t")  # 61 layers, 384 experts


def test_a_good_layout_passes():
    layout = Layout(dp=2, tp=8, pp=12, micro_batch=2, global_batch=64)
    layout.check(GPT, 192)
    assert (layout.devices, layout.microbatches) == (192, 16)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(tp=7, global_batch=8), "96 attention heads do not divide by tp 7"),
        (Layout(pp=7, global_batch=8, vpp=9), "96 layers do not divide by pp × vpp = 7 × 9"),
        (Layout(dp=3, global_batch=8), "8 sequences of a step do not divide by dp × micro_batch 3"),
        (Layout(cp=3, global_batch=8), "2048 tokens of a sequence do not divide by cp 3"),
        (Layout(vpp=2, global_batch=8), "vpp 2 needs a pipeline"),
        (Layout(ep=2, dp=2, global_batch=8), "ep 2 for a model without experts"),
        (Layout(tp=0), "tp is 0; expected 1 or more"),
        (Layout(recompute="some"), "recompute is 'some'"),
        (Layout(precision="int4"), "precision is 'int4'"),
        (Layout(zero=4), "zero is 4"),
    ],
)
def test_what_does_not_divide_is_named(layout, message):
    with pytest.raises(SettingError, match=message) as error:
        layout.check(GPT)
    assert "\n" not in str(error.value)


def test_experts_and_devices_must_divide():
    with pytest.raises(SettingError, match="384 experts do not divide by ep 7"):
        Layout(dp=7, ep=7, global_batch=7).check(MOE)
    with pytest.raises(SettingError, match=r"devices of a stage .* do not divide by ep 8"):
        Layout(dp=4, ep=8, global_batch=4).check(MOE)
    with pytest.raises(SettingError, match="= 4 devices do not fill the cluster's 8"):
        Layout(dp=4, global_batch=4).check(MOE, 8)


def test_slots_leave_room_for_embeddings():
    assert slots(GPT, Layout(pp=8)) == 12
    assert slots(MOE, Layout(pp=16)) == 4  # 61 blocks and three other places
    assert slots(GPT, Layout(pp=7, vpp=9)) is None
