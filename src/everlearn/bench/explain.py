"""The table of explainers: localisation, faithfulness, seconds and forwards of each on one model and the same pictures.

Results go to a file of JSON lines, one for each explainer and picture, so that an interrupted table goes on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from everlearn.bench.explain_lines import Line, version_of
from everlearn.bench.explain_pictures import Picture
from everlearn.bench.rows import append_rows, read_rows
from everlearn.errors import ModelError, SettingError
from everlearn.metrics.drop import drop_increase_gain
from everlearn.metrics.faithfulness import deletion_auc, insertion_auc
from everlearn.metrics.localisation import box_share, energy_in_region, pointing_game, top_iou

MODEL = "tf_efficientnet_lite0"
SIZE = 224
_CHUNK = 8  # pictures of a forward when measuring: what a processor's cache likes
# Column → whether more is better
MEASURES = {
    "EBPG": True, "mIoU": True, "Bbox": True, "pointing": True,
    "insertion": True, "deletion": False, "drop": False, "increase": True,
}  # fmt: skip


def load_model(weights: Path | None) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet's weights, in channels-last layout, BatchNorm folded into the convolutions.

    The outputs are the same to rounding, at a third of the time; every explainer and every peer gets this model.

    Parameters
    ----------
    weights : Path, optional
        A safetensors file with timm's keys; without it timm downloads them.

    Raises
    ------
    ModelError
        If the weights cannot be read or do not fit.
    """
    model = timm.create_model(MODEL, pretrained=weights is None)
    if weights is not None:
        try:
            state = load_file(weights)
            model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ModelError(f"{weights} gives no weights for {MODEL}: {first}") from error
    return fold_batch_norm(model.eval()).to(memory_format=torch.channels_last)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Merge each BatchNorm that directly follows a convolution of the same parent into it, in place.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    >>> x = torch.rand(1, 1, 5, 5)
    >>> before = model(x)
    >>> torch.allclose(fold_batch_norm(model)(x), before, atol=1e-5), type(model[1]).__name__
    (True, 'Identity')
    """
    for parent in list(model.modules()):
        last: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
                assert child.running_mean is not None and child.running_var is not None
                last.weight, last.bias = fuse_conv_bn_weights(
                    last.weight, last.bias, child.running_mean, child.running_var, child.eps, child.weight, child.bias
                )
                setattr(parent, name, getattr(child, "act", nn.Identity()))  # timm's holds the activation too
            last = child
    return model


def run_table(
    model: nn.Module,
    pictures: Sequence[Picture],
    lines: Sequence[Line],
    file: Path,
    *,
    slow: int = 3,
    steps: int = 16,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Run what the file does not hold yet, and append it.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    pictures : sequence of Picture
    lines : sequence of Line
    file : Path
        JSON lines; results of the same line, version, picture, steps and seed are taken from it.
    slow : int
        Pictures for slow lines: those with a region first.
    steps : int
        Of insertion and deletion.
    seed : int
        Of the random maps.
    show : callable, optional
        Called with a line of text before each line.

    Returns
    -------
    list of dict
        One for each line and picture: name, package, picture, seconds (of this process' processor time), forwards
        (a pass with gradients counts as three) and the measures.
    """
    known = {_key(row): row for row in read_rows(file)}
    first = sorted(pictures, key=lambda p: p.region is None)[:slow]
    found = []
    for line in lines:
        package, call = version_of(line), None
        mine = first if line.slow else pictures
        for i, picture in enumerate(mine):
            head = {"name": line.name, "package": package, "picture": picture.name, "steps": steps, "seed": seed}
            if _key(head) not in known:
                show(f"{package or 'everlearn'} {line.name}: picture {i + 1} of {len(mine)}")
                call = call or line.build(model, seed)
                row = head | explain_one(model, call, picture, steps)
                append_rows(file, [row])
                known[_key(head)] = row
            found.append(known[_key(head)])
    return found


def explain_one(
    model: nn.Module, call: Callable[[Tensor, Tensor], Tensor], picture: Picture, steps: int = 16
) -> dict[str, Any]:
    """One map, what it cost, and how good it is."""
    x, target = picture.inputs.contiguous(memory_format=torch.channels_last), picture.target
    with counting(model) as count:
        begun, clock = time.process_time(), time.perf_counter()
        maps = call(x, target).detach().float()
        seconds, waited = time.process_time() - begun, time.perf_counter() - clock
    cost = {"seconds": seconds, "wall_seconds": waited, "forwards": count.forwards, "torch": torch.__version__}
    return cost | {"threads": torch.get_num_threads()} | measures(model, x, target, picture.region, maps, steps)


def measures(
    model: nn.Module, x: Tensor, target: Tensor, region: Tensor | None, maps: Tensor, steps: int = 16
) -> dict[str, float]:
    """All measures of one map; shares and drops in per cent, areas under the curve 0 to 1."""
    drop = drop_increase_gain(model, x, maps, target, chunk=_CHUNK)
    found = {
        "insertion": insertion_auc(model, x, maps, target, steps=steps, chunk=_CHUNK),
        "deletion": deletion_auc(model, x, maps, target, steps=steps, chunk=_CHUNK),
        "drop": drop.drop,
        "increase": drop.increase,
    }
    if region is not None:
        found |= {
            "EBPG": 100 * energy_in_region(maps, region),
            "mIoU": 100 * top_iou(maps, region),
            "Bbox": 100 * box_share(maps, region),
            "pointing": 100 * pointing_game(maps, region),
        }
    return {name: float(value) for name, value in found.items()}


@dataclass
class Count:
    """Pictures through the model; a pass with gradients counts as three: its backward as two."""

    forwards: int = 0


@contextmanager
def counting(model: nn.Module) -> Iterator[Count]:
    """Count what a call computes, also a peer's."""
    count = Count()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        graph = torch.is_grad_enabled()
        count.forwards += len(args[0]) * (3 if graph else 1)

    handle = model.register_forward_pre_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each line: means over its pictures; localisation over those with a region.

    Examples
    --------
    >>> row = {"name": "SISE", "package": None, "insertion": 0.5, "seconds": 2.0, "forwards": 9}
    >>> found = summary([row, row | {"insertion": 0.7, "EBPG": 40.0}])[0]
    >>> found["pictures"], round(found["insertion"], 3), found["EBPG"], found["mIoU"]
    (2, 0.6, 40.0, None)
    """
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["package"]), []).append(row)
    found = []
    for (name, package), group in groups.items():
        entry: dict[str, Any] = {"name": name, "package": package, "pictures": len(group)}
        for measure in (*MEASURES, "seconds", "forwards"):
            values = [row[measure] for row in group if measure in row and not math.isnan(row[measure])]
            entry[measure] = statistics.mean(values) if values else None
        found.append(entry)
    return found


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table; the best figure of a column among lines with all pictures is bold."""
    most = max((e["pictures"] for e in found), default=0)
    full = [e for e in found if e["pictures"] == most]
    best = {}
    for name, more in MEASURES.items():
        values = [e[name] for e in full if e[name] is not None]
        best[name] = (max if more else min)(values, default=None)
    titles = [f"{name} {'↑' if more else '↓'}" for name, more in MEASURES.items()]
    lines = [
        f"| explainer | {' | '.join(titles)} | seconds | forwards | pictures |",
        "|---" * (len(titles) + 4) + "|",
    ]
    for e in found:
        cells = []
        for name in MEASURES:
            text = "–" if e[name] is None else f"{e[name]:.{digits(name)}f}"
            cells.append(f"**{text}**" if e[name] is not None and e[name] == best[name] and e in full else text)
        lines.append(
            f"| {title(e)} | {' | '.join(cells)} | {e['seconds']:.2f} | {e['forwards']:.0f} | {e['pictures']} |"
        )
    return "\n".join(lines)


def title(row: dict[str, Any]) -> str:
    """How tables call the line of a row: its name, and the package in brackets."""
    return str(row["name"]) + (f" ({row['package']})" if row["package"] else "")


def digits(measure: str) -> int:
    """Decimals with which tables show a measure."""
    return 3 if measure in ("insertion", "deletion") else 1


def chosen(lines: dict[str, Line], names: str | None, peers: bool = True) -> list[Line]:
    """Lines by their keys, commas between; by default all, without packages that are missing."""
    if names is None:
        return [line for line in lines.values() if line.package is None or (peers and _installed(line))]
    unknown = [name for name in names.split(",") if name not in lines]
    if unknown:
        raise SettingError(f"there is no line {unknown[0]!r}; expected some of {', '.join(lines)}")
    return [lines[name] for name in names.split(",")]


def _installed(line: Line) -> bool:
    try:
        return version_of(line) is not None
    except SettingError:
        return False


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("name", "package", "picture", "steps", "seed"))
