"""Parallelism applied to the plain model from outside: tensor, sequence, expert, context, sharded data.

The loss is a sum over tokens divided once by the tokens of the whole step, so gradients are summed everywhere and
divided nowhere.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.parallel.style import ParallelStyle

from everlearn.models.language import Block, Context, Language
from everlearn.models.mixture import Experts, Mixture
from everlearn.scaling.context import AllGather, Ulysses
from everlearn.scaling.experts import AllToAll, MixtureParallel
from everlearn.scaling.mesh import Mesh
from everlearn.scaling.settings import Layout


def parallelise(model: Language, mesh: Mesh) -> Language:
    """Cut a model, or a stage of it, as the layout says; in place, on any device, meta included.

    Order matters: tensors are split for TP and EP first, then recomputation wraps blocks, then FSDP shards what is
    left.
    """
    layout = mesh.layout
    if layout.cp > 1:
        _context(model, mesh)
    if layout.tp > 1:
        _tensor(model, mesh)
    if layout.ep > 1 or layout.tp > 1:
        _experts(model, mesh)
    model.tie()
    if layout.recompute != "none":
        for name, block in list(model.blocks.items()):
            if layout.recompute == "full":
                model.blocks[name] = checkpoint_wrapper(block)
            else:
                block.attention = checkpoint_wrapper(block.get_submodule("attention"))
    if layout.compile:
        for block in model.blocks.values():
            block.compile()
    if shards(layout):
        _shard(model, mesh)
    return model


def shards(layout: Layout) -> bool:
    """Whether FSDP2 wraps the model, and computes in bfloat16 by itself; else every process has whole copies."""
    return layout.dp * layout.cp > 1 and not splits_backward(layout) and not layout.exact


def splits_backward(layout: Layout) -> bool:
    """Whether the pipeline computes gradients of weights apart: FSDP2 loses them then, so nothing is sharded."""
    return layout.pp > 1 and layout.schedule in ("zero-bubble", "zbv")


def _context(model: Language, mesh: Mesh) -> None:
    group, balanced = mesh.group("cp"), mesh.layout.context == "gather"
    context = Context(mesh.rank("cp"), mesh.size("cp"), balanced)
    model.context = context
    for block in blocks(model):
        block.attention.context = context
        block.attention.core = AllGather(group, context) if balanced else Ulysses(group)


def _tensor(model: Language, mesh: Mesh) -> None:
    """Heads, feed-forward widths and the vocabulary are split; with sequence parallelism norms and residuals too."""
    tp, sequence = mesh.of("tp"), mesh.layout.sequence_parallel
    x = Shard(1) if sequence else Replicate()
    if model.embed is not None:
        plan: dict[str, ParallelStyle] = {"embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=x)}
        if model.place is not None:
            plan["place"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=x)
        parallelize_module(model, tp, plan)
    if model.head is not None:
        plan = {"head": ColwiseParallel(input_layouts=x, output_layouts=Shard(-1), use_local_output=False)}
        parallelize_module(model, tp, plan | ({"norm": SequenceParallel(use_local_output=True)} if sequence else {}))
    for block in blocks(model):
        parallelize_module(block, tp, _block_plan(block, sequence))


def _block_plan(block: Block, sequence: bool) -> dict[str, ParallelStyle]:
    x = Shard(1) if sequence else Replicate()
    plan: dict[str, ParallelStyle] = {f"attention.{name}": ColwiseParallel() for name in "qkv"}
    plan["attention.o"] = RowwiseParallel(output_layouts=x)
    if sequence:
        plan["attention"] = PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate())
        plan["attention_norm"] = plan["feed_norm"] = SequenceParallel(use_local_output=True)
    if block.attention.q_norm is not None:  # each process has its own heads: their dimension counts as the sequence's
        plan["attention.q_norm"] = plan["attention.k_norm"] = SequenceParallel(sequence_dim=2, use_local_output=True)
    if isinstance(block.feed, Mixture):
        plan["feed"] = MixtureParallel(x)
        return plan
    if sequence:
        plan["feed"] = PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate())
    plan |= {"feed.up": ColwiseParallel(), "feed.down": RowwiseParallel(output_layouts=x)}
    return plan | ({"feed.gate": ColwiseParallel()} if block.feed.gate is not None else {})


def _experts(model: Language, mesh: Mesh) -> None:
    """Whole experts over ep, their widths over tp."""
    layout = mesh.layout
    names = [name for name in ("ep", "tp") if getattr(layout, name) > 1]
    for experts in (block.feed.experts for block in blocks(model) if isinstance(block.feed, Mixture)):
        for name, width in (("gate", 2), ("up", 2), ("down", 1)):
            cut = {"ep": Shard(0), "tp": Shard(width)}
            weight = distribute_tensor(
                getattr(experts, name), mesh.of(*names), [cut[n] for n in names], src_data_rank=None
            )
            setattr(experts, name, nn.Parameter(weight))
        if layout.ep > 1:
            experts.exchange = AllToAll(mesh.group("ep"))


def _shard(model: Language, mesh: Mesh) -> None:
    """FSDP2, or copies where the shard has one member: gradients are summed in float32."""
    layout = mesh.layout
    bf16 = layout.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, output_dtype=None
    )
    reshard = layout.zero == 3
    copies = ("replicate",) if mesh.size("replicate") > 1 else ()
    dense = mesh.of(*copies, "fsdp")
    for block in model.blocks.values():
        for experts in (module for module in block.modules() if isinstance(module, Experts) and layout.ep > 1):
            fully_shard(experts, mesh=mesh.of(*copies, "outer"), mp_policy=policy, reshard_after_forward=reshard)
        fully_shard(block, mesh=dense, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=dense, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def blocks(model: Language) -> list[Block]:
    """The blocks themselves, whatever wraps them."""
    return [module for module in model.modules() if isinstance(module, Block)]
