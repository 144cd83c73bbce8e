"""Devices and the network between them: a datasheet's numbers and a few efficiencies that its owner can measure."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from everlearn.errors import SettingError

PRESETS = Path(__file__).parents[1] / "clusters"
MOST_DEVICES = 10_000_000
LARGEST, SMALLEST = 1e9, 1e-9  # of a datasheet's numbers
MAY_BE_0 = {"tflops_fp8", "tflops_fp4", "watts", "usd_per_hour", "domain_latency_us", "network_latency_us",
            "failures_per_1000_node_days"}  # fmt: skip


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Parameters
    ----------
    name : str
        What a person calls it.
    tflops_bf16, tflops_fp8, tflops_fp4 : float
        Dense peaks of the datasheet; 0 where the device has none.
    memory_gib, hbm_tb_s : float
        Memory and its bandwidth.
    processors : int
        Streaming multiprocessors: matrix products come in waves of so many tiles.
    watts, usd_per_hour : float
        Board power under load and a rental price; change them to your own.
    gemm_efficiency, fp8_efficiency, fp4_efficiency : float
        What the best large matrix product reaches of the peak, clocks under load included.
    attention_efficiency : float
        What a fused attention kernel reaches of the bf16 peak.
    hbm_efficiency : float
        What a streaming kernel reaches of the memory's bandwidth.
    """

    name: str
    tflops_bf16: float
    memory_gib: float
    hbm_tb_s: float
    processors: int
    tflops_fp8: float = 0.0
    tflops_fp4: float = 0.0
    watts: float = 700.0
    usd_per_hour: float = 2.0
    gemm_efficiency: float = 0.78
    fp8_efficiency: float = 0.65
    fp4_efficiency: float = 0.55
    attention_efficiency: float = 0.6
    hbm_efficiency: float = 0.69

    def peak(self, precision: str) -> float:
        """FLOP/s of the datasheet in a precision, or in the narrowest that the device has."""
        fp8 = self.tflops_fp8 or self.tflops_bf16
        table = {"fp8": fp8, "mxfp8": fp8, "nvfp4": self.tflops_fp4 or fp8}
        return 1e12 * table.get(precision, self.tflops_bf16)

    def sustained(self, precision: str) -> float:
        """FLOP/s of the best large matrix product in a precision."""
        if precision == "nvfp4" and self.tflops_fp4:
            return 1e12 * self.tflops_fp4 * self.fp4_efficiency
        if precision in ("fp8", "mxfp8", "nvfp4") and self.tflops_fp8:
            return 1e12 * self.tflops_fp8 * self.fp8_efficiency
        return 1e12 * self.tflops_bf16 * self.gemm_efficiency

    @property
    def bandwidth(self) -> float:
        """Bytes/s that a streaming kernel reaches."""
        return 1e12 * self.hbm_tb_s * self.hbm_efficiency


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind in domains (nodes, racks) joined by a network.

    Parameters
    ----------
    device : Device
        The accelerator.
    devices : int
        How many.
    devices_per_domain : int
        Devices joined by NVLink or its like.
    domain_gb_s, network_gb_s : float
        Bandwidth of one device, in one direction: within its domain, and its share of the domain's network cards.
    domain_efficiency, network_efficiency : float
        What large collectives reach of them.
    domain_latency_us, network_latency_us : float
        Time of a collective's step before the first byte arrives.
    failures_per_1000_node_days : float
        Interruptions; 6.5 is what Meta's clusters saw.
    storage_gb_s : float
        Rate at which the whole cluster writes a checkpoint.
    """

    device: Device
    devices: int
    devices_per_domain: int = 8
    domain_gb_s: float = 300.0
    network_gb_s: float = 25.0
    domain_efficiency: float = 0.86
    network_efficiency: float = 0.9
    domain_latency_us: float = 10.0
    network_latency_us: float = 20.0
    failures_per_1000_node_days: float = 6.5
    storage_gb_s: float = 60.0

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise SettingError(f"the cluster has {self.devices} devices; expected 1 or more")


def load_cluster(text: str | Path, **changes: Any) -> Cluster:
    """A cluster from ``"h100:1024"``: a preset or a TOML file, and a number of devices.

    Parameters
    ----------
    text : str or Path
        ``NAME:DEVICES`` or ``FILE.toml:DEVICES``; the file has the tables ``[device]`` and ``[network]``.
    changes
        Fields of the cluster to set otherwise.

    Raises
    ------
    SettingError
        If the device is unknown, the number is none, or the file makes no sense.

    Examples
    --------
    >>> cluster = load_cluster("h100:1024")
    >>> cluster.devices, cluster.device.memory_gib
    (1024, 80)
    """
    name, colon, number = str(text).rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,8}", number) or not 1 <= int(number) <= MOST_DEVICES:
        raise SettingError(
            f"cluster {str(text)!r}; expected DEVICE:NUMBER, such as h100:1024 or mine.toml:256, and at most "
            f"{MOST_DEVICES:,} devices"
        )
    return replace(_read(name), devices=int(number), **changes)


def device_names() -> list[str]:
    """Names of the devices that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _read(name: str) -> Cluster:
    own = name.endswith(".toml")
    path = Path(name) if own else PRESETS / f"{name.lower()}.toml"
    if not path.is_file():
        if own:
            raise SettingError(f"there is no cluster file {name!r}; give a TOML file with [device] and [network]")
        near = get_close_matches(name.lower(), device_names(), 3, 0.4) or device_names()
        raise SettingError(
            f"unknown device {name!r}; known are {', '.join(near)}, or give your own as FILE.toml:NUMBER"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{path.name} is not readable TOML: {error}") from None
    if unknown := sorted(set(table) - {"device", "network"}):
        raise SettingError(f"{path.name}: unknown table [{unknown[0]}]; expected [device] and [network]")
    for each in ("device", "network"):
        if not isinstance(table.get(each, {}), dict):
            raise SettingError(f"{path.name}: {each} is {table[each]!r}; expected a table [{each}]")
    if told := sorted({"device", "devices"} & set(table.get("network", {}))):
        raise SettingError(f"{path.name}: {told[0]} in [network]; it is told by [device] and by the :NUMBER behind it")
    device = _fill(Device, {"name": path.stem} | table.get("device", {}), path.name)
    return _fill(Cluster, {"device": device, "devices": 1} | table.get("network", {}), path.name)


def _fill(kind: type, values: dict[str, Any], file: str) -> Any:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise SettingError(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    whole = {field.name for field in fields(kind) if field.type == "int"}
    for key, value in values.items():
        if key == "device":
            continue
        if key == "name":
            if not isinstance(value, str):
                raise SettingError(f"{file}: name is {value!r}; expected a text in quotes")
            continue
        most = 1 if key.endswith("_efficiency") else LARGEST
        number = isinstance(value, int if key in whole else int | float) and not isinstance(value, bool)
        if not number or not (SMALLEST <= value <= most or (value == 0 and key in MAY_BE_0)):
            expected = "of 0 or more" if key in MAY_BE_0 else "above 0"
            kind_of = "whole number" if key in whole else "number"
            raise SettingError(f"{file}: {key} is {value!r}; expected a {kind_of} {expected}, at most {most:g}")
    try:
        return kind(**values)
    except TypeError as error:
        raise SettingError(
            f"{file}: {str(error).split('() ')[-1]}; a device needs tflops_bf16, memory_gib, hbm_tb_s and processors"
        ) from None
