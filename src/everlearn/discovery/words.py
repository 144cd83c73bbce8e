"""What is expected of a candidate, what that rests on, and how far the reasons held when measured: in words.

The words never claim more than the check: only a supported part is given as what the expectation rests on.
"""

from __future__ import annotations

from everlearn.discovery.proposal import Proposal
from everlearn.discovery.reason import Case, Check, Reason
from everlearn.discovery.search import Search


def words(search: Search, proposal: Proposal, reason: Reason, k: int = 0) -> str:
    """Three sentences: expectation and parts, measured candidates, and the check of both."""
    return " ".join([_expectation(search, proposal, reason, k), _cases(reason), _trust(reason)])


def number(value: float) -> str:
    """Four digits.

    Examples
    --------
    >>> number(0.00123456), number(123.456)
    ('0.001235', '123.5')
    """
    return f"{value:.4g}"


def short(name: str, most: int = 32) -> str:
    """A name that leaves a sentence readable: a long SMILES keeps its beginning.

    Examples
    --------
    >>> short("CCO"), short("C" * 50)
    ('CCO', 'CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC…')
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _expectation(search: Search, proposal: Proposal, reason: Reason, k: int) -> str:
    target = search.config.targets[k]
    unit = search.pool.units.get(target.name, "")
    o = proposal.outlook[target.name]
    shown = f"{number(o.value)}{' ' + unit if unit else ''}"
    head = f"Expected {target.name} {shown} (80 % interval {number(o.low)} to {number(o.high)})"
    if proposal.why == "learn":
        head = f"Chosen for what it tells of the other candidates, not for its own value. {head}"
    if not reason.effects:
        return f"{head}; it has no parts to take out."
    best = reason.effects[0]
    said = reason.parts_check.verdict if reason.parts_check else "not supported"
    without = f"{short(best.part.name)}: without it {number(best.value)}"
    if best.effect <= 0:
        return f"{head}; no single part makes it better."
    if said == "supported":
        return f"{head}; it rests on {without}."
    if said == "weak":
        return f"{head}; weak support for {without}."
    return f"{head}; no part can be named for it."


def _cases(reason: Reason) -> str:
    def listed(cases: list[Case]) -> str:
        return ", ".join(f"{short(case.name)} ({number(case.value)})" for case in cases) or "none"

    return f"Measured candidates for it: {listed(reason.cases_for)}; against it: {listed(reason.cases_against)}."


def _trust(reason: Reason) -> str:
    return f"Measured: {_figures('the part', reason.parts_check)}; {_figures('the cases', reason.cases_check)}."


def _figures(what: str, check: Check | None) -> str:
    if check is None:
        return f"{what} could not be checked"
    mean = sum(check.random) / len(check.random)
    return f"{what} {check.verdict}, {check.named:.2f} against {mean:.2f} at random"
