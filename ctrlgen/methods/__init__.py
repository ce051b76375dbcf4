"""Methods: algorithms from prior and cost to result, one folder a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.methods.analytic.cpigdm import CPiGDM
    from ctrlgen.methods.analytic.cpigfm import CPiGFM
    from ctrlgen.methods.analytic.ddrm import DDRM
    from ctrlgen.methods.analytic.otode import OTODE
    from ctrlgen.methods.analytic.pigdm import AncestralPiGDM, PiGDM
    from ctrlgen.methods.base import Method
    from ctrlgen.methods.blackbox.best_of import BestOf
    from ctrlgen.methods.blackbox.evolution import EvolutionStrategy
    from ctrlgen.methods.blackbox.particles import ParticleResampling
    from ctrlgen.methods.blackbox.renoising import RenoisingSearch
    from ctrlgen.methods.blackbox.trust_region import TrustRegionSearch
    from ctrlgen.methods.controls.blind import BlindNDTM
    from ctrlgen.methods.controls.ctdtm import CTDTM
    from ctrlgen.methods.controls.ftm import FTM
    from ctrlgen.methods.controls.ndtm import NDTM
    from ctrlgen.methods.gradients.guidance import (
        DPS,
        LGDMC,
        MPGD,
        UGD,
        ClassifierGuidance,
        FreeDoM,
    )
    from ctrlgen.methods.gradients.tfg import TFG
    from ctrlgen.methods.source.dflow import DFlow
    from ctrlgen.methods.source.dmplug import DMPlug
    from ctrlgen.methods.trajectory.flowgrad import FlowGrad, OCFlow
    from ctrlgen.methods.trajectory.optimal_control import OptimalControl
    from ctrlgen.methods.variational.daps import DAPS
    from ctrlgen.methods.variational.flow_priors import FlowPriors
    from ctrlgen.methods.variational.pnp_flow import PnPFlow
    from ctrlgen.methods.variational.red_diff import REDDiff

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
    "BestOf",
    "BlindNDTM",
    "CPiGDM",
    "CPiGFM",
    "ClassifierGuidance",
    "DFlow",
    "DMPlug",
    "EvolutionStrategy",
    "FlowGrad",
    "FlowPriors",
    "FreeDoM",
    "Method",
    "OCFlow",
    "OptimalControl",
    "ParticleResampling",
    "PiGDM",
    "PnPFlow",
    "REDDiff",
    "RenoisingSearch",
    "TrustRegionSearch",
]

__getattr__, __dir__ = attach(__name__)
