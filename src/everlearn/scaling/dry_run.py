"""A step of a layout traced with the real code and no memory, on a fake process group: its collectives, counted.

The model is built and cut on the meta device as one rank of the whole cluster; then forward, backward and the
optimiser's step run on fake tensors. Every collective is counted with its group's size and its bytes.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling import gradients
from everlearn.scaling.engine import Engine
from everlearn.scaling.mesh import Mesh, build_mesh, check, complete
from everlearn.scaling.settings import Layout

KINDS = {
    "all_gather_into_tensor": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "all_gather_into_tensor_out": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "allreduce_": "all_reduce",
    "all_to_all_single": "all_to_all",
    "alltoall_base_": "all_to_all",
    "alltoall_": "all_to_all",
    "send": "send",
    "recv_": "receive",
}

_resolve: Any = dist.distributed_c10d._resolve_process_group


@dataclass(frozen=True)
class Traced:
    """What one rank did in a step.

    Attributes
    ----------
    world : int
        Simulated processes.
    parameters : int
        Of the whole model, or of this rank's stages of a pipeline.
    held_bytes : int
        Of the weights that this rank holds.
    calls, bytes : dict
        Collectives by (kind, group size): how many, and the bytes of the whole tensor reduced or gathered, or of what
        one rank sends in an all-to-all.
    along : dict
        Calls and bytes by (kind, dimension of the mesh).
    seconds : float
        That the trace took.
    """

    world: int
    parameters: int
    held_bytes: int
    calls: dict[tuple[str, int], int] = field(default_factory=dict)
    bytes: dict[tuple[str, int], int] = field(default_factory=dict)
    along: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0


class _Count(TorchDispatchMode):
    """Counts collectives as they are dispatched."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self.names = names
        self.along: dict[tuple[str, str], tuple[int, int]] = {}
        self.calls: Counter[tuple[str, int]] = Counter()
        self.bytes: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional", "_c10d_functional_autograd"):
            name = func._schema.name.split("::")[1]
            if name in KINDS:
                kind, group, size = KINDS[name], _group(args), _bytes(KINDS[name], args, out)
                key = (kind, 1 if group is None else int(group.size()))
                self.calls[key] += 1
                self.bytes[key] += size
                dimension = "" if group is None else self.names.get(group.group_name, "")
                calls, so_far = self.along.get((kind, dimension), (0, 0))
                self.along[kind, dimension] = calls + 1, so_far + size
        return out


def _group(args: Any) -> Any:
    for arg in reversed(args):  # a reduction comes before the group, as a string too
        if isinstance(arg, str):
            return _resolve(arg)
        if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
            return dist.ProcessGroup.unbox(arg)
    return None


def names_of(mesh: Mesh) -> dict[str, str]:
    """Dimensions of the mesh by their groups' names; of groups that are the same the first."""
    found: dict[str, str] = {}
    for name in ("tp", "pp", "fsdp", "ep", "cp", "replicate", "outer", "loss") if mesh.root is not None else ():
        found.setdefault(mesh.group(name).group_name, name)
    return found


def _bytes(kind: str, args: Any, out: Any) -> int:
    """Bytes of the larger side: what is gathered, reduced, or sent."""
    found = [0]

    def visit(x: Any) -> None:
        if isinstance(x, torch.Tensor):
            found.append(x.numel() * x.element_size())
        elif isinstance(x, list | tuple):
            for y in x:
                visit(y)

    visit(list(args))
    visit(out if isinstance(out, list | tuple) else [out])
    return max(found)


def dry_run(
    config: LanguageConfig, layout: Layout, world: int, *, seq_len: int = 0, global_batch: int = 0, rank: int = 0
) -> Traced:
    """Trace one step of one rank of ``world``.

    Parameters
    ----------
    config : LanguageConfig
    layout : Layout
    world : int
        Processes to simulate.
    seq_len, global_batch : int
        By default the model's, and one micro-batch for each replica (for each stage of it too under a pipeline).
    rank : int
        Whose part is traced.

    Raises
    ------
    SettingError
        If the layout does not fit, or a process group stands already.
    """
    if dist.is_initialized():
        raise SettingError("a process group stands already; a dry run makes a fake one of its own")
    layout = complete(layout, world)
    seq_len = seq_len or config.seq_len
    global_batch = global_batch or layout.dp * layout.micro_batch * layout.pp
    check(layout, config, seq_len, global_batch)
    from torch._subclasses.fake_tensor import FakeTensorMode

    begun = time.perf_counter()
    _clear_sharding_prop_cache()  # what it keeps of an equal mesh names groups that are gone
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        engine = Engine.build(config, build_mesh(layout, world), 0, empty=True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            for stage in engine.stages:
                stage.to_empty(device="cpu")
            optimiser = torch.optim.AdamW(engine.parameters(), foreach=False)
            tokens = torch.zeros(global_batch // layout.dp, seq_len, dtype=torch.int64)
            with _Count(names_of(engine.mesh)) as count, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # a stage's output is only sent on
                engine.traced_step(tokens, tokens)
                gradients.gradient_norm(engine.parameters(), engine.mesh)
                gradients.clip(engine.parameters(), 2.0, 1.0)
                optimiser.step()
        held = sum(_local_bytes(p) for p in engine.parameters())
        total = sum(p.numel() for p in engine.parameters())
        seconds = time.perf_counter() - begun
        return Traced(world, total, held, dict(count.calls), dict(count.bytes), dict(count.along), seconds)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()


def _local_bytes(parameter: torch.nn.Parameter) -> int:
    held = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return held.numel() * held.element_size()
