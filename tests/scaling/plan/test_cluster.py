"""Clusters from presets and from one's own files."""

import pytest

from everlearn.errors import SettingError
from everlearn.scaling.plan import load_cluster
from everlearn.scaling.plan.cluster import device_names

OWN = """
[device]
tflops_bf16 = 100
memory_gib = 24
hbm_tb_s = 1
processors = 80
[network]
devices_per_domain = 4
domain_gb_s = 50
"""


def test_every_device_loads_and_sustains_less_than_its_peak():
    for name in device_names():
        device = load_cluster(f"{name}:8").device
        for precision in ("bf16", "fp8", "nvfp4"):
            assert 0 < device.sustained(precision) < device.peak(precision)


def test_named_devices_are_there():
    assert {"v100", "a100", "h100", "h200", "b200", "gb200"} <= set(device_names())


def test_own_cluster(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    cluster = load_cluster(f"{file}:32")
    assert (cluster.devices, cluster.device.name, cluster.devices_per_domain) == (32, "mine", 4)


def test_prices_latencies_and_failures_may_be_0(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN.replace("[network]", "watts = 0\nusd_per_hour = 0\n[network]\nfailures_per_1000_node_days = 0"))
    assert load_cluster(f"{file}:32").device.usd_per_hour == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100", "expected DEVICE:NUMBER"),
        ("h100:", "expected DEVICE:NUMBER"),
        ("h100:0", "expected DEVICE:NUMBER"),
        ("h100:-8", "expected DEVICE:NUMBER"),
        ("h101:8", "unknown device 'h101'; known are .*h100"),
        ("none.toml:8", "there is no cluster file 'none.toml'"),
    ],
)
def test_bad_clusters_are_refused(text, message):
    with pytest.raises(SettingError, match=message):
        load_cluster(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[network]", "[wires]", r"unknown table \[wires\]"),
        ("processors = 80", "", "'processors'; a device needs"),
        ("processors = 80", "processors = 'many'", "processors is 'many'; expected a whole number"),
        ("processors = 80", "processors = 80\ncores = 3", "unknown setting 'cores'"),
        ("hbm_tb_s = 1", "hbm_tb_s = -1", "hbm_tb_s is -1"),
        ("hbm_tb_s = 1", "hbm_tb_s = 0", "hbm_tb_s is 0; expected a number above 0"),
        ("hbm_tb_s = 1", "hbm_tb_s = nan", "hbm_tb_s is nan; expected a number above 0"),
        ("domain_gb_s = 50", "network_gb_s = 0.0", r"network_gb_s is 0\.0; expected a number above 0"),
        ("domain_gb_s = 50", "network_latency_us = -1", "network_latency_us is -1; expected a number of 0 or more"),
        ("[device]", "[device", "not readable TOML"),
    ],
)
def test_bad_cluster_files_are_refused(tmp_path, old, new, message):
    file = tmp_path / "mine.toml"
    file.write_text(OWN.replace(old, new))
    with pytest.raises(SettingError, match=message):
        load_cluster(f"{file}:8")
