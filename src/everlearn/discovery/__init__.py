"""Discovery: which material to make next, and why; a learner whose labels are experiments."""

from everlearn.discovery.campaign import Campaign, Told
from everlearn.discovery.config import CampaignConfig, Limit, Target
from everlearn.discovery.entries import Decision, Telling
from everlearn.discovery.page import report_campaign, write_proposals
from everlearn.discovery.pool import Aside, Measurement
from everlearn.discovery.proposal import Outlook, Proposal
from everlearn.discovery.reason import Reason

__all__ = [
    "Aside",
    "Campaign",
    "CampaignConfig",
    "Decision",
    "Limit",
    "Measurement",
    "Outlook",
    "Proposal",
    "Reason",
    "Target",
    "Telling",
    "Told",
    "report_campaign",
    "write_proposals",
]
