"""Learners: one file for each method, named after it."""

from everlearn.learners.agem import AGEM
from everlearn.learners.aser import ASER
from everlearn.learners.der import DER
from everlearn.learners.er import ER
from everlearn.learners.er_ace import ERACE
from everlearn.learners.ewc import EWC
from everlearn.learners.gdumb import GDumb
from everlearn.learners.group import Group
from everlearn.learners.gss import GSS
from everlearn.learners.icarl import ICaRL
from everlearn.learners.joint import Joint, Offline
from everlearn.learners.learner import Learner, Prediction, StepReport
from everlearn.learners.lwf import LwF
from everlearn.learners.mir import MIR
from everlearn.learners.mkd import MKD
from everlearn.learners.naive import Naive
from everlearn.learners.ncm import NCM
from everlearn.learners.random_features import RandomFeatures
from everlearn.learners.scr import SCR
from everlearn.learners.shares import collect, deal
from everlearn.learners.slda import SLDA

METHODS: dict[str, type[Learner]] = {
    "naive": Naive,
    "joint": Joint,
    "offline": Offline,
    "er": ER,
    "er_ace": ERACE,
    "der": DER,
    "mir": MIR,
    "gss": GSS,
    "agem": AGEM,
    "aser": ASER,
    "scr": SCR,
    "mkd": MKD,
    "gdumb": GDumb,
    "icarl": ICaRL,
    "lwf": LwF,
    "ewc": EWC,
    "ncm": NCM,
    "slda": SLDA,
    "random_features": RandomFeatures,
}

__all__ = [
    "AGEM",
    "ASER",
    "DER",
    "ER",
    "ERACE",
    "EWC",
    "GSS",
    "METHODS",
    "MIR",
    "MKD",
    "NCM",
    "SCR",
    "SLDA",
    "GDumb",
    "Group",
    "ICaRL",
    "Joint",
    "Learner",
    "LwF",
    "Naive",
    "Offline",
    "Prediction",
    "RandomFeatures",
    "StepReport",
    "collect",
    "deal",
]
