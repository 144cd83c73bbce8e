"""Why a plan is the best, and what limits it, in words."""

from __future__ import annotations

from everlearn.scaling.plan.failures import failures_of
from everlearn.scaling.plan.plan import Plan

CAUSES = {
    "gemm": "matrix products",
    "attention": "attention's core",
    "memory": "memory traffic of element-wise kernels",
    "recompute": "recomputed activations",
    "host": "launches on the host, which the device waits for",
    "tensor": "tensor parallelism's sums",
    "context": "context parallelism's gathers",
    "expert": "all-to-all of experts",
    "head": "the last stage's output embedding",
    "bubble": "the pipeline's bubble",
    "pipeline": "sends between stages",
    "data": "reduction of gradients",
    "optimiser": "the optimiser",
}
REMEDIES = {
    "gemm": "the devices compute most of the time: only faster ones or a narrower precision help",
    "attention": "shorter sequences or local attention would help",
    "memory": "a larger micro-batch or fused kernels would help",
    "recompute": "more memory, or more devices to share it, would spare the recomputation",
    "host": "a larger micro-batch or graphs would help",
    "tensor": "less tensor parallelism would help if memory allows, or faster links",
    "context": "faster links, or a smaller context-parallel group, would help",
    "expert": "expert parallelism within one domain, or overlap with computation, would help",
    "head": "counting the output embedding as a block of the pipeline would help",
    "bubble": "more sequences a step, more chunks a device or a shorter pipeline would help",
    "pipeline": "a faster network or fewer chunks would help",
    "data": "larger steps or a faster network would help",
    "optimiser": "larger steps would help",
}


def shares(plan: Plan) -> list[tuple[str, float]]:
    """Causes and their shares of a step, from large to small; nothing below half a per cent."""
    found = [(name, seconds / plan.step_seconds) for name, seconds in plan.parts.items()]
    return sorted(((name, share) for name, share in found if share >= 0.005), key=lambda each: -each[1])


def limit(plan: Plan) -> str:
    """What costs most beside the matrix products, and what would help."""
    others = [(name, share) for name, share in shares(plan) if name not in ("gemm", "attention")]
    name, share = others[0] if others and others[0][1] >= 0.05 else ("gemm", plan.parts["gemm"] / plan.step_seconds)
    return f"limited by {CAUSES[name]}, {share:.0%} of a step; {REMEDIES[name]}"


def explain(best: Plan, others: list[Plan]) -> list[str]:
    """Sentences about the best plan: its memory, its limit, failures, and the best of each other choice.

    Parameters
    ----------
    best : Plan
        The one to explain.
    others : list of Plan
        All that were found, from fast to slow.
    """
    room = best.cluster.device.memory_gib
    used = f"{best.memory.total / 2**30:.0f} of {room:g} GiB a device: {_memory(best)}"
    lines = [used, limit(best), _failures(best)]
    rivals: dict[str, Plan] = {}
    for dimension in ("tp", "pp", "ep", "cp", "zero", "recompute"):
        own = getattr(best.layout, dimension)
        rival = next((plan for plan in others if getattr(plan.layout, dimension) != own), None)
        if rival is not None:
            rivals.setdefault(rival.layout.words, rival)
    for words, rival in rivals.items():
        slower = best.tokens_per_second / rival.tokens_per_second - 1
        lines.append(f"{words} is {slower:.1%} slower: {_loses(best, rival)}")
    return lines


def batch(plan: Plan, asked: float) -> str:
    """The batch of a plan, and why it is not the one that was asked for.

    Parameters
    ----------
    asked : float
        Tokens of a step.
    """
    layout = plan.layout
    line = f"a step has {layout.global_batch} sequences, {plan.tokens_per_step / 1e6:.3g} M tokens"
    wanted, unit = max(1, round(asked / plan.shape.seq_len)), layout.dp * layout.micro_batch
    if wanted == layout.global_batch:
        return line
    why = f"do not divide by dp {layout.dp} × micro-batch {layout.micro_batch}"
    if wanted % unit == 0:
        why = "have fewer factors in common with the devices"
    return f"{line}: the {wanted} sequences of the {asked / 1e6:.3g} M asked for {why}"


def _loses(best: Plan, rival: Plan) -> str:
    """The cause by which the rival loses most."""
    names = sorted(set(best.parts) | set(rival.parts))
    scale = best.tokens_per_step / rival.tokens_per_step
    more = {name: (scale * rival.parts.get(name, 0) - best.parts.get(name, 0)) / best.step_seconds for name in names}
    name = max(more, key=lambda n: more[n])
    return f"{CAUSES[name]} cost {more[name]:.1%} of the step more" if more[name] > 0.0005 else "the two are alike"


def _memory(plan: Plan) -> str:
    names = ("weights", "gradients", "optimiser", "activations", "buffers")
    return ", ".join(f"{name} {getattr(plan.memory, name) / 2**30:.1f}" for name in names)


def _failures(plan: Plan) -> str:
    f = failures_of(plan)
    return (
        f"a failure every {span(f.mean_time)}; a checkpoint stalls for {span(f.stall_seconds)}, is written in "
        f"{span(f.checkpoint_seconds)} and due every {span(f.interval)}; goodput {f.goodput:.1%}"
    )


def span(seconds: float) -> str:
    """A length of time for a person.

    Examples
    --------
    >>> span(5400.0), span(3.0)
    ('90.0 min', '3.0 s')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
