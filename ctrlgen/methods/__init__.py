"""Methods: algorithms from prior and cost to result, one family a module."""

from __future__ import annotations

from ctrlgen.methods.base import Method
from ctrlgen.methods.blind import BlindNDTM
from ctrlgen.methods.ctdtm import CTDTM
from ctrlgen.methods.ddrm import DDRM
from ctrlgen.methods.dflow import DFlow
from ctrlgen.methods.ftm import FTM
from ctrlgen.methods.guidance import DPS, LGDMC, MPGD, UGD, ClassifierGuidance, FreeDoM
from ctrlgen.methods.ndtm import NDTM
from ctrlgen.methods.tfg import TFG

__all__ = [
    "CTDTM",
    "DDRM",
    "DPS",
    "FTM",
    "LGDMC",
    "MPGD",
    "NDTM",
    "TFG",
    "UGD",
    "BlindNDTM",
    "ClassifierGuidance",
    "DFlow",
    "FreeDoM",
    "Method",
]
