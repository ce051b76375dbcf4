"""Methods: algorithms from prior and cost to result, one family a module."""

from __future__ import annotations

from ctrlgen.methods.base import Method
from ctrlgen.methods.blind import BlindNDTM
from ctrlgen.methods.cpigdm import CPiGDM
from ctrlgen.methods.cpigfm import CPiGFM
from ctrlgen.methods.ctdtm import CTDTM
from ctrlgen.methods.daps import DAPS
from ctrlgen.methods.ddrm import DDRM
from ctrlgen.methods.dflow import DFlow
from ctrlgen.methods.dmplug import DMPlug
from ctrlgen.methods.flow_priors import FlowPriors
from ctrlgen.methods.flowgrad import FlowGrad, OCFlow
from ctrlgen.methods.ftm import FTM
from ctrlgen.methods.guidance import DPS, LGDMC, MPGD, UGD, ClassifierGuidance, FreeDoM
from ctrlgen.methods.ndtm import NDTM
from ctrlgen.methods.optimal_control import OptimalControl
from ctrlgen.methods.otode import OTODE
from ctrlgen.methods.pigdm import AncestralPiGDM, PiGDM
from ctrlgen.methods.pnp_flow import PnPFlow
from ctrlgen.methods.red_diff import REDDiff
from ctrlgen.methods.tfg import TFG

__all__ = [
    "CTDTM",
    "DAPS",
    "DDRM",
    "DPS",
    "FTM",
    "LGDMC",
    "MPGD",
    "NDTM",
    "OTODE",
    "TFG",
    "UGD",
    "AncestralPiGDM",
    "BlindNDTM",
    "CPiGDM",
    "CPiGFM",
    "ClassifierGuidance",
    "DFlow",
    "DMPlug",
    "FlowGrad",
    "FlowPriors",
    "FreeDoM",
    "Method",
    "OCFlow",
    "OptimalControl",
    "PiGDM",
    "PnPFlow",
    "REDDiff",
]
