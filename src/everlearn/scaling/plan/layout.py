"""A layout: how a training step is cut over the devices of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from everlearn.errors import SettingError
from everlearn.scaling.plan.config import ModelShape

RECOMPUTE = ("none", "selective", "full")
PRECISIONS = ("fp16", "bf16", "fp8", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class Layout:
    """How many ways each dimension is cut.

    Parameters
    ----------
    dp, tp, pp, vpp, cp, ep : int
        Data, tensor, pipeline, virtual pipeline (model chunks of a device), context and expert parallelism. Devices are
        dp × tp × pp × cp; experts are spread over ep of the dp × cp × tp devices of a stage.
    micro_batch, global_batch : int
        Sequences of one pass of one replica, and of one optimiser step.
    zero : int
        0 nothing sharded, 1 optimiser (ZeRO-1), 2 gradients too, 3 weights too (FSDP).
    recompute : {"none", "selective", "full"}
        Activations computed again in the backward pass: none, attention's core, everything.
    sequence_parallel : bool
        Norms and residuals split over the tensor-parallel devices.
    precision : {"fp16", "bf16", "fp8", "mxfp8", "nvfp4"}
        Of the linear layers' products.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    micro_batch: int = 1
    global_batch: int = 1
    zero: int = 1
    recompute: str = "none"
    sequence_parallel: bool = True
    precision: str = "bf16"

    @property
    def devices(self) -> int:
        """Devices in use."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def microbatches(self) -> int:
        """Passes of one replica in a step."""
        return max(1, self.global_batch // (self.dp * self.micro_batch))

    @property
    def words(self) -> str:
        """The layout in one line."""
        names = {"dp": self.dp, "tp": self.tp, "pp": self.pp, "vpp": self.vpp, "cp": self.cp, "ep": self.ep}
        cut = " ".join(f"{name}{n}" for name, n in names.items() if n > 1 or name in ("dp", "tp", "pp"))
        return f"{cut} mb{self.micro_batch} zero{self.zero} recompute-{self.recompute} {self.precision}"

    def check(self, shape: ModelShape, devices: int | None = None) -> None:
        """Raise a `SettingError` that names the first thing that does not divide."""
        for name in ("dp", "tp", "pp", "vpp", "cp", "ep", "micro_batch", "global_batch"):
            if getattr(self, name) < 1:
                raise SettingError(f"layout: {name} is {getattr(self, name)}; expected 1 or more")
        if self.recompute not in RECOMPUTE:
            raise SettingError(f"layout: recompute is {self.recompute!r}; expected one of {', '.join(RECOMPUTE)}")
        if self.precision not in PRECISIONS:
            raise SettingError(f"layout: precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.zero not in (0, 1, 2, 3):
            raise SettingError(f"layout: zero is {self.zero}; expected 0, 1, 2 or 3")
        if devices is not None and self.devices != devices:
            found = f"dp {self.dp} × tp {self.tp} × pp {self.pp} × cp {self.cp} = {self.devices}"
            raise SettingError(f"layout: {found} devices do not fill the cluster's {devices}; change one of them")
        self._check_model(shape)

    def _check_model(self, shape: ModelShape) -> None:
        def divides(whole: int, by: int, what: str, name: str) -> None:
            if whole % by:
                raise SettingError(
                    f"layout: {whole} {what} do not divide by {name} {by}; choose {name} so that they do"
                )

        divides(shape.heads, self.tp, "attention heads", "tp")
        divides(self.global_batch, self.dp * self.micro_batch, "sequences of a step", "dp × micro_batch")
        divides(shape.seq_len, self.cp, "tokens of a sequence", "cp")
        if self.vpp > 1 and self.pp == 1:
            raise SettingError(f"layout: vpp {self.vpp} needs a pipeline; set pp to 2 or more, or vpp to 1")
        if self.ep > 1:
            if not shape.experts:
                raise SettingError(f"layout: ep {self.ep} for a model without experts; set ep to 1")
            divides(shape.experts, self.ep, "experts", "ep")
            divides(self.dp * self.cp * self.tp, self.ep, "devices of a stage (dp × cp × tp)", "ep")
        if slots(shape, self) is None:
            chunks = f"pp × vpp = {self.pp} × {self.vpp}"
            raise SettingError(
                f"layout: {shape.layers} layers do not divide by {chunks}; choose pp and vpp so that they do"
            )


def slots(shape: ModelShape, layout: Layout) -> int | None:
    """Blocks of the fullest stage, or None where the layers cannot be laid out.

    Up to three places may hold what is no block: the embedding, the output embedding, a further-token predictor.
    """
    chunks = layout.pp * layout.vpp
    for extra in (0, 1, 2, 3):
        if (shape.layers + extra) % chunks == 0:
            return (shape.layers + extra) // layout.pp
    return None
