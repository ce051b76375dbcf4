"""Cases of the methods, in every form that has a branch of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import Cost, SquaredError
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
    OCFlow,
    OptimalControl,
    ParticleResampling,
    PiGDM,
    PnPFlow,
    REDDiff,
    RenoisingSearch,
    TrustRegionSearch,
)
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.blackbox.best_of import Rung
from ctrlgen.methods.controls.blind import BlindBlur
from ctrlgen.methods.regularizers import Chi, GaussianNLL, TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import GuidedStart
from ctrlgen.optimizers import LBFGS, Adam, GaussNewton, GradientDescent
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import DDIM
from ctrlgen.solvers import Euler
from tests.laws.cases.base import SEEDS, Case, D, Outputs, Vector, draw, pick
from tests.laws.cases.costs import measured
from tests.laws.cases.priors import conditional_prior


def method_cost(dtype: torch.dtype = torch.float64) -> Cost:
    """What methods are tried on: a linear measurement."""
    return (0.1 * SquaredError(*measured(D), noise=0.1)).to(dtype)


Problem = Callable[[Tensor, torch.dtype], tuple[Any, Prior, Cost]]


def steered(problem: Problem) -> Callable[[Tensor, torch.dtype], Outputs]:
    """What a method makes of its problem."""

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        method, prior, cost = problem(index, dtype)
        return result_rows(method(prior, cost, seeds=pick(SEEDS, index)))

    return rows


def method_case(method: Any) -> Case:
    def problem(index: Tensor, dtype: torch.dtype) -> tuple[Any, Prior, Cost]:
        prior = pick(conditional_prior(dtype), index)
        cost = pick(method_cost(), index, dtype)
        return replace(method, dtype=dtype, device=index.device), prior, cost

    kinds = (type(method), Result)
    return Case(kinds, steered(problem), heavy=True, rounding=None, method=method, problem=problem)


def blind_case() -> Case:
    def build() -> BlindBlur:
        return BlindBlur(draw(1, D, stream=41), 3, kernel=torch.softmax(draw(3, stream=42), 1))

    def problem(index: Tensor, dtype: torch.dtype) -> tuple[Any, Prior, Cost]:
        prior = Prior(Flow(Vector(), Cosine(), "v"), Gaussian((1, D)))
        method = BlindNDTM(grid=FEW_STEPS, iterations=2, dtype=dtype, device=index.device)
        return method, prior, pick(build(), index, dtype)

    return Case(
        (BlindNDTM, BlindBlur),
        steered(problem),
        (build(), draw(1, D)),
        heavy=True,
        rounding=None,
        part=build,
        problem=problem,
    )


def result_rows(result: Result) -> Outputs:
    return {name: getattr(result, name) for name in result.per_sample}


FEW = LBFGS(max_iterations=5)
FEW_STEPS = DDPMUniform(3)


METHODS: dict[str, Case] = {
    "dflow": method_case(DFlow(optimizer=FEW)),
    "dflow-adam": method_case(
        DFlow(optimizer=Adam(max_iterations=5), regularizer=Chi(0.1), target=1.0)
    ),
    "dflow-gauss-newton": method_case(
        DFlow(optimizer=GaussNewton(inner=2, max_iterations=2), regularizer=GaussianNLL(0.1))
    ),
    "dflow-guided": method_case(
        DFlow(
            optimizer=FEW,
            initializer=GuidedStart(3),
            regularizer=TargetNLL(0.1, probes=2),
            solver=Euler(2),
        )
    ),
    "ndtm": method_case(NDTM(grid=FEW_STEPS, iterations=2)),
    "ndtm-guided": method_case(
        NDTM(grid=FEW_STEPS, iterations=2, start="guided", weighting="ones", warm=True)
    ),
    "ctdtm": method_case(CTDTM(grid=FEW_STEPS, iterations=2)),
    "ftm": method_case(FTM(grid=Uniform(3), iterations=2)),
    "blind-ndtm": blind_case(),
    "tfg": method_case(TFG(grid=FEW_STEPS, gamma=0.1, iterations=2, recurrences=2, largest=0.1)),
    "dps": method_case(DPS(grid=FEW_STEPS)),
    "lgd-mc": method_case(LGDMC(grid=FEW_STEPS, draws=2)),
    "mpgd": method_case(MPGD(grid=FEW_STEPS)),
    "freedom": method_case(FreeDoM(grid=FEW_STEPS, relative=True)),
    "ugd": method_case(UGD(grid=FEW_STEPS)),
    "classifier-guidance": method_case(ClassifierGuidance(grid=FEW_STEPS)),
    "ddrm": method_case(DDRM(grid=FEW_STEPS)),
    "red-diff": method_case(REDDiff(grid=FEW_STEPS, dispersion=0.1)),
    "dmplug": method_case(DMPlug(optimizer=Adam(max_iterations=3), clip=2.0)),
    "flow-priors": method_case(FlowPriors(grid=Uniform(2, start=1e-3), iterations=2)),
    "pnp-flow": method_case(PnPFlow(grid=Uniform(3), draws=2)),
    "daps": method_case(
        DAPS(grid=Karras(3, 0.1, 100.0), ode_steps=2, langevin_steps=2, noise=None)
    ),
    "pigdm": method_case(PiGDM(grid=truncated(3, 0.4))),
    "pigdm-original": method_case(AncestralPiGDM(grid=truncated(3, 0.9))),
    "cpigdm": method_case(CPiGDM(grid=truncated(3, 0.4), final="tweedie")),
    "cpigdm-released": method_case(CPiGDM(grid=truncated(3, 0.4), noisy="released")),
    "cpigfm": method_case(CPiGFM(grid=Uniform(3, 0.2), decay=0.2)),
    "otode": method_case(OTODE(grid=Uniform(3, 0.2))),
    "otode-heuristic": method_case(OTODE(grid=Uniform(3, 0.2), heuristic=True)),
    "optimal-control": method_case(
        OptimalControl(grid=Uniform(3), iterations=2, halvings=3, rank=2, rule=DDIM(0.5))
    ),
    "optimal-control-dense": method_case(
        OptimalControl(grid=Uniform(2), iterations=2, halvings=3, rank=None, side="output")
    ),
    "optimal-control-adam": method_case(
        OptimalControl(grid=Uniform(3), iterations=2, rank=1, update="adam")
    ),
    "flowgrad": method_case(
        FlowGrad(
            grid=Uniform(4),
            optimizer=GradientDescent(learning_rate=0.1, max_iterations=2),
            threshold=0.5,
        )
    ),
    "oc-flow": method_case(
        OCFlow(grid=Uniform(3), optimizer=Adam(learning_rate=0.1, max_iterations=2))
    ),
    "best-of": method_case(BestOf(n=3, rungs=(Rung(1, 1.0),), solver=Euler(2), target=-1.0)),
    "best-of-halving": method_case(
        BestOf(n=6, solver=Euler(2), rungs=(Rung(1, 0.5), Rung(2, 0.5)), chunk=4)
    ),
    "best-of-stochastic": method_case(BestOf(n=3, rungs=(Rung(1, 1.0),), solver=Sampler(4))),
    "renoising-stochastic": method_case(
        RenoisingSearch(
            draws=4, parents=2, children=3, generations=2, times=(0.4,), solver=Sampler(4)
        )
    ),
    "evolution": method_case(
        EvolutionStrategy(population=6, generations=3, draws=2, solver=Euler(2))
    ),
    "particles": method_case(
        ParticleResampling(population=4, grid=Uniform(5), looks=2, threshold=0.9)
    ),
    "particles-moved": method_case(
        ParticleResampling(population=3, grid=Uniform(4), moves=2, depth=2, pick="draw", clip=5.0)
    ),
    "trust-region": method_case(
        TrustRegionSearch(draws=4, batch=3, rounds=2, descent=4, solver=Euler(2))
    ),
    "renoising": method_case(
        RenoisingSearch(
            draws=4, parents=2, children=3, generations=2, times=(0.4,), solver=Euler(3)
        )
    ),
    "evolution-sphere": method_case(
        EvolutionStrategy(population=4, generations=3, sphere=True, solver=Euler(2))
    ),
}
