"""Processes as a mesh: one dimension for each way a step is cut.

The dimensions, from the slowest network to the fastest: ``pp`` stages, ``replicate`` copies, ``outer`` and ``inner``
shards (experts are spread over inner × cp), ``cp`` parts of a sequence, ``tp`` parts of a matrix. Flattened from
them: ``fsdp`` = outer × inner × cp (dense weights are sharded over it), ``batch`` = replicate × outer × inner (each
has its own sequences), ``loss`` = batch × cp (each has its own tokens).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from everlearn.errors import SettingError
from everlearn.models.language import LanguageConfig
from everlearn.scaling.settings import Layout


@dataclass(frozen=True)
class Mesh:
    """The mesh of a layout, as seen by one process.

    Attributes
    ----------
    layout : Layout
        With ``dp`` and ``shard`` filled in.
    root : DeviceMesh or None
        None for a single process.
    flat : dict
        The flattened dimensions.
    """

    layout: Layout
    root: DeviceMesh | None
    flat: dict[str, DeviceMesh] = field(default_factory=dict)

    def size(self, name: str) -> int:
        """Processes along a dimension."""
        return 1 if self.root is None else self.of(name).size()

    def rank(self, name: str) -> int:
        """This process's place along a dimension."""
        return 0 if self.root is None else self.of(name).get_local_rank()

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group along a dimension."""
        return self.of(name).get_group()

    def of(self, *names: str) -> DeviceMesh:
        """The mesh of some dimensions."""
        assert self.root is not None
        if len(names) == 1:
            return self.flat[names[0]] if names[0] in self.flat else self.root[names[0]]
        with warnings.catch_warnings():  # a flattened dimension beside a plain one has no other way yet
            warnings.filterwarnings("ignore", message="Slicing a flattened dim")
            return self.root[names]


def complete(layout: Layout, world: int) -> Layout:
    """Fill in ``dp`` and ``shard``; raises `SettingError` where the layout does not fill the processes.

    Examples
    --------
    >>> complete(Layout(tp=2), 8).dp
    4
    """
    others = layout.tp * layout.pp * layout.cp
    dp = layout.dp or world // others
    if dp * others != world:
        found = f"dp {max(1, dp)} × tp {layout.tp} × pp {layout.pp} × cp {layout.cp}"
        raise SettingError(
            f"layout {found} does not fill {world} processes; change one, or start {max(1, dp) * others}"
        )
    if layout.exact and (layout.shard > 1 or others * layout.ep > 1):
        found = f"tp {layout.tp}, pp {layout.pp}, cp {layout.cp}, ep {layout.ep}, shard {layout.shard}"
        raise SettingError(f"layout.exact with {found}; exact sums need whole copies: set these to 1")
    shard = 1 if layout.zero == 0 or layout.exact else layout.shard or dp
    if dp % shard:
        raise SettingError(f"dp {dp} does not divide by shard {shard}; choose shard so that it does")
    if layout.ep > 1 and (layout.ep % layout.cp or shard % (layout.ep // layout.cp)):
        found = f"ep {layout.ep} with shard {shard} and cp {layout.cp}"
        raise SettingError(f"{found}; ep must be a multiple of cp and divide shard × cp = {shard * layout.cp}")
    if layout.pp > 1 and layout.schedule in ("zero-bubble", "zbv") and shard > 1:
        found = f"schedule {layout.schedule!r} with weights sharded over {shard}"
        raise SettingError(
            f"{found}: FSDP2 loses gradients there; set zero to 0, or the schedule to 1f1b or interleaved"
        )
    if layout.vpp > 1 and layout.schedule in ("gpipe", "1f1b"):
        raise SettingError(f"vpp {layout.vpp} with schedule {layout.schedule!r}; set it to interleaved or zero-bubble")
    return layout.model_copy(update={"dp": dp, "shard": shard})


def check(layout: Layout, config: LanguageConfig, seq_len: int, global_batch: int) -> None:
    """Raise a `SettingError` that names the first thing of the model that the layout does not divide."""

    def divides(whole: int, by: int, what: str, name: str) -> None:
        if whole % by:
            raise SettingError(f"{whole} {what} do not divide by {name} {by}; change one of them")

    divides(config.heads, layout.tp, "heads", "tp")
    divides(config.kv_heads, layout.tp, "kv_heads", "tp")
    divides(config.vocab, layout.tp, "words of the vocabulary", "tp")
    if layout.cp > 1:
        halves = 2 if layout.context == "gather" else 1
        divides(seq_len, layout.cp * halves, "tokens of a sequence", "cp" + " × 2" * (halves - 1))
        if layout.context == "ulysses":
            divides(config.heads // layout.tp, layout.cp, "heads of a process", "cp (Ulysses)")
    if layout.tp > 1 and layout.sequence_parallel:
        divides(seq_len // layout.cp, layout.tp, "tokens of a process", "tp (sequence parallel)")
    divides(global_batch, layout.dp * layout.micro_batch, "sequences of a step", "dp × micro_batch")
    passes = global_batch // layout.micro_batch
    if layout.exact and passes & (passes - 1):
        found = f"{global_batch} sequences in passes of {layout.micro_batch}"
        raise SettingError(f"layout.exact with {found}: {passes} passes a step; expected a power of two")
    if layout.ep > 1:
        if not config.experts:
            raise SettingError(f"ep {layout.ep} for a model without experts; set ep to 1")
        divides(config.experts, layout.ep, "experts", "ep")
    if layout.pp > 1 and config.layers + 2 < layout.pp * layout.vpp:  # embedding and head may stand alone
        raise SettingError(f"{config.layers} layers for {layout.pp * layout.vpp} stages; expected at least one a stage")


def build_mesh(layout: Layout, world: int, device: str = "cpu") -> Mesh:
    """Make the mesh of a layout over all processes; the process group must stand."""
    layout = complete(layout, world)
    if world == 1:
        return Mesh(layout, None)
    inner = max(1, layout.ep // layout.cp)
    sizes = {
        "pp": layout.pp, "replicate": layout.dp // layout.shard, "outer": layout.shard // inner, "inner": inner,
        "cp": layout.cp, "tp": layout.tp,
    }  # fmt: skip
    root = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    joined = {
        "fsdp": ("outer", "inner", "cp"),
        "batch": ("replicate", "outer", "inner"),
        "loss": ("replicate", "outer", "inner", "cp"),
        "ep": ("inner", "cp"),
    }
    return Mesh(layout, root, {name: root[dims]._flatten(name) for name, dims in joined.items()})
