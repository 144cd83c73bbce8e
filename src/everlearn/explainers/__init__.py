"""Explainers: from a decision to the pixels and the remembered cases it rests on, measured."""

from everlearn.explainers.ada_sise import AdaSISE
from everlearn.explainers.captum_adapter import CaptumAdapter
from everlearn.explainers.evidence import Evidence, evidence
from everlearn.explainers.explainer import Explainer
from everlearn.explainers.explaining import EXPLAINERS, TEXT_EXPLAINERS, explain
from everlearn.explainers.explanation import Explanation
from everlearn.explainers.frugal_sise import FrugalSISE
from everlearn.explainers.grad_cam import GradCAM
from everlearn.explainers.grad_cam_plus_plus import GradCAMPlusPlus
from everlearn.explainers.integrated_grad_cam import IntegratedGradCAM
from everlearn.explainers.layer_cam import LayerCAM
from everlearn.explainers.refine_cam import RefineCAM
from everlearn.explainers.rise import RISE
from everlearn.explainers.score_cam import ScoreCAM
from everlearn.explainers.sise import SISE
from everlearn.explainers.token_masking import TokenMasking
from everlearn.explainers.token_sampling import TokenSampling

__all__ = [
    "EXPLAINERS",
    "RISE",
    "SISE",
    "TEXT_EXPLAINERS",
    "AdaSISE",
    "CaptumAdapter",
    "Evidence",
    "Explainer",
    "Explanation",
    "FrugalSISE",
    "GradCAM",
    "GradCAMPlusPlus",
    "IntegratedGradCAM",
    "LayerCAM",
    "RefineCAM",
    "ScoreCAM",
    "TokenMasking",
    "TokenSampling",
    "evidence",
    "explain",
]
