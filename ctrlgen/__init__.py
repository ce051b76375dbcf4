"""Controlled generation with pretrained flow and diffusion models, without training.

    import ctrlgen as cg

    prior = cg.load("mnist")
    blur = cg.images.SuperResolution(2)
    problem = cg.InverseProblem(blur, blur.measure(cg.images.held_out("mnist", 4).images))
    result = cg.solve(prior, problem, method="d-flow", seeds=range(4))

Every name below is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen import testing
    from ctrlgen.comparison import Comparison, compare
    from ctrlgen.costs import (
        BlackBoxCost,
        ChebyshevCost,
        ClassifierCost,
        Command,
        Cost,
        FunctionCost,
        InverseProblem,
        LevelSet,
        NegativePSNR,
        PropertyCost,
        Reversed,
        SquaredError,
        best_of,
        hypervolume,
        nondominated,
        psnr,
        solve,
    )
    from ctrlgen.domains import audio, images, molecules
    from ctrlgen.methods import (
        CTDTM,
        DAPS,
        DDRM,
        DPS,
        FTM,
        LGDMC,
        MPGD,
        NDTM,
        OTODE,
        TFG,
        UGD,
        AncestralPiGDM,
        BestOf,
        BlindNDTM,
        ClassifierGuidance,
        CPiGDM,
        CPiGFM,
        DFlow,
        DMPlug,
        EvolutionStrategy,
        FlowGrad,
        FlowPriors,
        FreeDoM,
        Method,
        OCFlow,
        OptimalControl,
        ParticleResampling,
        PiGDM,
        PnPFlow,
        REDDiff,
        RenoisingSearch,
        TrustRegionSearch,
    )
    from ctrlgen.methods.blackbox.best_of import Rung
    from ctrlgen.methods.multisecant import MultiSecant
    from ctrlgen.methods.result import Result
    from ctrlgen.methods.source.tangent import Tangent
    from ctrlgen.methods.starts import Blend, GuidedStart, Refined, SourceSample
    from ctrlgen.methods.stepping import RuledMethod, SteppedMethod
    from ctrlgen.operators import LinearOperator, Matrix, Operator, measure
    from ctrlgen.optimizers import LBFGS, Adam, GaussNewton, GradientDescent
    from ctrlgen.priors import (
        EDM,
        VP,
        Codec,
        CondOT,
        Cosine,
        DiscreteVP,
        Flow,
        Gaussian,
        Identity,
        MaskedGaussian,
        Prior,
        Scaled,
        Source,
        available,
        load,
        trusting,
    )
    from ctrlgen.rows.status import Status
    from ctrlgen.sampling.grids import Karras, Power, Times, Uniform
    from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint

__version__ = "0.1.0"

__all__ = [
    "CTDTM",
    "DAPS",
    "DDRM",
    "DPS",
    "EDM",
    "FTM",
    "LBFGS",
    "LGDMC",
    "MPGD",
    "NDTM",
    "OTODE",
    "RK4",
    "TFG",
    "UGD",
    "VP",
    "Adam",
    "AncestralPiGDM",
    "BestOf",
    "BlackBoxCost",
    "Blend",
    "BlindNDTM",
    "CPiGDM",
    "CPiGFM",
    "ChebyshevCost",
    "ClassifierCost",
    "ClassifierGuidance",
    "Codec",
    "Command",
    "Comparison",
    "CondOT",
    "Cosine",
    "Cost",
    "DFlow",
    "DMPlug",
    "DiscreteVP",
    "Dopri5",
    "Euler",
    "EvolutionStrategy",
    "Flow",
    "FlowGrad",
    "FlowPriors",
    "FreeDoM",
    "FunctionCost",
    "GaussNewton",
    "Gaussian",
    "GradientDescent",
    "GuidedStart",
    "Heun",
    "Identity",
    "InverseProblem",
    "Karras",
    "LevelSet",
    "LinearOperator",
    "MaskedGaussian",
    "Matrix",
    "Method",
    "Midpoint",
    "MultiSecant",
    "NegativePSNR",
    "OCFlow",
    "Operator",
    "OptimalControl",
    "ParticleResampling",
    "PiGDM",
    "PnPFlow",
    "Power",
    "Prior",
    "PropertyCost",
    "REDDiff",
    "Refined",
    "RenoisingSearch",
    "Result",
    "Reversed",
    "RuledMethod",
    "Rung",
    "Scaled",
    "Source",
    "SourceSample",
    "SquaredError",
    "Status",
    "SteppedMethod",
    "Tangent",
    "Times",
    "TrustRegionSearch",
    "Uniform",
    "__version__",
    "audio",
    "available",
    "best_of",
    "compare",
    "hypervolume",
    "images",
    "load",
    "measure",
    "molecules",
    "nondominated",
    "psnr",
    "solve",
    "testing",
    "trusting",
]

__getattr__, __dir__ = attach(__name__)
