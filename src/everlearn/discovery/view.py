"""A proposal and its reasons as plain numbers and texts, for the report, the page of the server and the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlearn.discovery.campaign import Campaign
from everlearn.discovery.proposal import Proposal
from everlearn.discovery.reason import Case, Reason

View = dict[str, Any]


def views_of(campaign: Campaign, proposals: Sequence[Proposal], reasons: Sequence[Reason]) -> list[View]:
    """What is shown of each proposal. Can be written as JSON."""
    new, stable = campaign.enumerated, campaign.stabilities
    return [
        _view(proposal, reason)
        | {"new": proposal.candidate in new}
        | {"stability": stable[proposal.candidate].words() if proposal.candidate in stable else ""}
        for proposal, reason in zip(proposals, reasons)
    ]


def _view(proposal: Proposal, reason: Reason) -> View:
    largest = max((abs(e.effect) for e in reason.effects), default=0.0) or 1.0
    checks = (("parts", reason.parts_check), ("cases", reason.cases_check))
    return {
        "name": proposal.candidate,
        "text": proposal.text,
        "expected": [
            {"target": name, "value": o.value, "low": o.low, "high": o.high} for name, o in proposal.outlook.items()
        ],
        "chance": proposal.chance,
        "why": proposal.why,
        "effects": [
            {"name": e.part.name, "value": e.value, "effect": e.effect, "share": e.effect / largest}
            for e in reason.effects
        ],
        "weights": list(reason.weights),
        "cases_for": [_case(each) for each in reason.cases_for],
        "cases_against": [_case(each) for each in reason.cases_against],
        "checks": {
            what: {"verdict": c.verdict, "named": c.named, "random": sum(c.random) / len(c.random)}
            for what, c in checks
            if c
        },
        "words": reason.words,
    }


def _case(each: Case) -> View:
    return {"name": each.name, "text": each.text, "value": each.value, "shapley": each.shapley}
