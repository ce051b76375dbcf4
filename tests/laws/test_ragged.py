"""Laws 1 and 6 where samples have several sizes: padding is no part of a sample.

The same cloud of three points is steered alone, without padding, and in a batch whose largest has
nine points. What comes out of it is the same, whatever the component averages over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, NegativePSNR, SquaredError
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
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
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.blackbox.best_of import Rung
from ctrlgen.methods.guided_velocity import guided_velocity
from ctrlgen.methods.regularizers import Chi, TargetNLL
from ctrlgen.methods.starts import GuidedStart
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.optimizers import LBFGS, Adam, GradientDescent
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.likelihood import log_likelihood
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import MaskedGaussian
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import Karras, Uniform
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Dopri5, Midpoint, Solver

DOUBLE = torch.float64
SEEDS = torch.tensor([7, 3, 11, 2])
COUNTS = torch.tensor([3, 9, 4, 5])
FEATURES = 5
ROW = 0


def masks(counts: Tensor) -> Tensor:
    return torch.arange(int(counts.max())) < counts.unsqueeze(1)


def cloud(x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """A velocity in which the points of a cloud see one another, and nothing else."""
    there = mask.unsqueeze(2).to(x)
    middle = (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    pull = torch.tanh(x) - 0.4 * middle - t.reshape(-1, 1, 1) * x
    return pull * there


class Same(LinearOperator):
    """y = x, for states of any shape."""

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(torch.ones_like(x[:1]), *([lambda v: v] * 4))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


class Batch:
    """The clouds of some rows, padded to the largest of them."""

    def __init__(self, rows: list[int]) -> None:
        self.seeds, self.counts = SEEDS[rows], COUNTS[rows]
        self.mask = masks(self.counts)

    def prior(self) -> Prior:
        source = MaskedGaussian(self.mask, FEATURES)
        return Prior(Flow(cloud, CondOT()), source, conditions={"mask": self.mask})

    @property
    def y(self) -> Tensor:
        draws = normal(self.seeds, (*self.mask.shape[1:], FEATURES), 40, dtype=DOUBLE)
        return draws * self.mask.unsqueeze(2)

    def function(self) -> CostLike:
        """A plain cost of the points that there are."""

        def distance(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return ((x - y) * mask.unsqueeze(2)).square().sum((1, 2))

        return FunctionCost(distance, {"y": self.y, "mask": self.mask})

    def squared(self) -> CostLike:
        return SquaredError(Same().ragged(self.mask), self.y, 0.1)

    def decibels(self) -> CostLike:
        return NegativePSNR(Same().ragged(self.mask), self.y, 0.1)


METHODS: dict[str, tuple[Any, Callable[[Batch], CostLike]]] = {
    "dflow": (DFlow(optimizer=LBFGS(max_iterations=3)), Batch.function),
    "dflow-psnr": (DFlow(optimizer=LBFGS(max_iterations=3), regularizer=Chi(0.1)), Batch.decibels),
    "dflow-adaptive": (
        DFlow(optimizer=Adam(max_iterations=2), solver=Dopri5(1e-2, 1e-2)), Batch.function,
    ),
    "dflow-probes": (
        DFlow(optimizer=LBFGS(max_iterations=2), regularizer=TargetNLL(0.1, probes=2)),
        Batch.function,
    ),
    "dflow-guided": (
        DFlow(optimizer=LBFGS(max_iterations=2), initializer=GuidedStart(3)), Batch.squared,
    ),
    "ndtm": (NDTM(iterations=2), Batch.function),
    "tfg-largest": (TFG(rho=0.01, mu=0.01, largest=1e-2, iterations=2), Batch.function),
    "dps": (DPS(), Batch.decibels),
    "mpgd": (MPGD(), Batch.decibels),
    "flowgrad": (
        FlowGrad(optimizer=GradientDescent(learning_rate=0.1, max_iterations=2), threshold=0.5),
        Batch.function,
    ),
    "oc-flow": (OCFlow(optimizer=Adam(learning_rate=0.1, max_iterations=2)), Batch.function),
    "optimal-control": (OptimalControl(iterations=2, rank=2, halvings=3), Batch.function),
    "optimal-control-dense": (
        OptimalControl(iterations=1, rank=None, halvings=3, side="output"), Batch.function,
    ),
    "optimal-control-adam": (OptimalControl(iterations=2, rank=1, update="adam"), Batch.function),
    "ctdtm": (CTDTM(iterations=2), Batch.function),
    "ftm": (FTM(iterations=2), Batch.function),
    "lgd-mc": (LGDMC(draws=2), Batch.function),
    "freedom": (FreeDoM(relative=True), Batch.function),
    "ugd": (UGD(), Batch.function),
    "classifier-guidance": (ClassifierGuidance(), Batch.function),
    "ddrm": (DDRM(), Batch.squared),
    "red-diff": (REDDiff(dispersion=0.1), Batch.squared),
    "dmplug": (DMPlug(optimizer=Adam(max_iterations=2)), Batch.function),
    "flow-priors": (FlowPriors(grid=Uniform(2, start=1e-3), iterations=2), Batch.squared),
    "pnp-flow": (PnPFlow(draws=2), Batch.squared),
    "daps": (
        DAPS(grid=Karras(3, 0.1, 100.0), ode_steps=2, langevin_steps=2, noise=None), Batch.squared,
    ),
    "pigdm": (PiGDM(), Batch.squared),
    "pigdm-ancestral": (AncestralPiGDM(grid=truncated(3, 0.9)), Batch.squared),
    "cpigdm": (CPiGDM(grid=truncated(3, 0.4), final="tweedie"), Batch.squared),
    "cpigfm": (CPiGFM(grid=Uniform(3, 0.2), decay=0.2), Batch.squared),
    "otode": (OTODE(grid=Uniform(3, 0.2)), Batch.squared),
    "otode-heuristic": (OTODE(grid=Uniform(3, 0.2), heuristic=True), Batch.squared),
    "evolution": (EvolutionStrategy(population=6, generations=4), Batch.function),
    "evolution-sphere": (
        EvolutionStrategy(population=6, generations=4, sphere=True), Batch.function,
    ),
    "particles": (
        ParticleResampling(population=4, looks=2, moves=2, depth=2), Batch.function,
    ),
    "renoising": (
        RenoisingSearch(draws=4, parents=3, children=4, generations=3), Batch.function,
    ),
    "trust-region": (
        TrustRegionSearch(draws=4, batch=2, rounds=3, descent=4), Batch.function,
    ),
    "best-of": (BestOf(n=4, rungs=(Rung(1),)), Batch.function),
    "best-of-stochastic": (BestOf(n=3, solver=Sampler(5)), Batch.function),
    "renoising-stochastic": (
        RenoisingSearch(draws=3, parents=2, children=4, generations=2, solver=Sampler(6)),
        Batch.function,
    ),
}  # fmt: skip

COUNTED = {"status", "iterations", "evaluations", "backward_passes", "objective_calls"}
WHOLE_JACOBIANS = {"optimal-control-dense"}
"""Takes a backward pass for every entry of the padded state, and says so."""

WITHOUT_PADDING = {BlindNDTM: "its blurred signals have one shape, that of space"}


def test_every_method_is_tried(public_classes: set[type]) -> None:
    methods = {kind for kind in public_classes if issubclass(kind, Method)}
    concrete = {kind for kind in methods if not inspect.isabstract(kind)}
    assert {type(method) for method, _ in METHODS.values()} == concrete - WITHOUT_PADDING.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_does_not_see_its_padding(name: str) -> None:
    method, cost = METHODS[name]
    grid = (
        {"grid": replace(method.grid, steps=min(4, method.grid.steps))}
        if hasattr(method, "grid")
        else {}
    )
    method = replace(method, dtype=DOUBLE, **grid)
    results = []
    for rows in ([ROW], [1, ROW, 2, 3]):
        batch = Batch(rows)
        result = method(batch.prior(), cost(batch), seeds=batch.seeds)
        results.append(result.take(torch.tensor([rows.index(ROW)])))
    alone, among = results
    count = int(COUNTS[ROW])
    assert torch.allclose(among.samples[:, :count], alone.samples, rtol=0, atol=1e-9)
    assert float(among.samples[:, count:].abs().max()) == 0
    assert torch.allclose(among.costs, alone.costs, rtol=1e-9, atol=1e-9)
    for field in COUNTED - ({"backward_passes"} if name in WHOLE_JACOBIANS else set()):
        assert torch.equal(getattr(among, field), getattr(alone, field)), field


@pytest.mark.parametrize("solver", [Midpoint(4), Dopri5(1e-2, 1e-2)], ids=repr)
def test_solutions_and_likelihoods_do_not_see_the_padding(solver: Solver) -> None:
    found = []
    for rows in ([ROW], [1, ROW, 2]):
        batch = Batch(rows)
        prior, place = batch.prior(), rows.index(ROW)
        x = prior.sample(batch.seeds, solver, dtype=DOUBLE)
        likelihood = log_likelihood(prior, x, solver, seeds=batch.seeds, count=3)
        found.append((x[place, : int(COUNTS[ROW])], likelihood[place]))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=0, atol=1e-9)


def test_the_guided_velocity_does_not_see_the_padding() -> None:
    """Its scale is that of the real atoms, in a codec that scales positions and classes apart."""
    found = []
    for rows in ([ROW], [1, ROW, 2]):
        batch = Batch(rows)
        source = Atoms(int(batch.counts.max()), FEATURES, counts=batch.counts)
        prior = Prior(
            Flow(cloud, CondOT()), source, AtomCodec(1.4, 0.2), conditions={"mask": batch.mask}
        )
        operator = Same().ragged(batch.mask)
        x = prior.start(batch.seeds, dtype=DOUBLE)
        u = guided_velocity(prior, SquaredError(operator, batch.y, 0.1).measurement, x, 0.5)
        found.append(u[rows.index(ROW), : int(COUNTS[ROW])])
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-12)


def test_members_of_several_sizes_are_as_alone_and_breed_on() -> None:
    """A population whose members all have one size is that of this size; the best size wins."""
    method = RenoisingSearch(draws=6, parents=3, children=4, generations=3, dtype=DOUBLE)
    seeds = torch.tensor([7, 11])

    def cost(counts: Tensor, aim: Tensor) -> CostLike:
        def away(x: Tensor, mask: Tensor, aim: Tensor) -> Tensor:
            return (x.square().sum((1, 2)) - aim).square() * mask.any(1)

        return FunctionCost(away, {"mask": masks(counts), "aim": aim})

    def prior(counts: Tensor) -> Prior:
        mask = masks(counts)
        return Prior(
            Flow(cloud, CondOT()), MaskedGaussian(mask, FEATURES), conditions={"mask": mask}
        )

    aim = torch.tensor([12.0, 40.0], dtype=DOUBLE)
    alike = torch.tensor([3, 3, 9, 9])
    plain = method(prior(alike[::2]), cost(alike[::2], aim), seeds=seeds)
    two = replace(method, variants=2)
    same = two(prior(alike), cost(alike, aim.repeat_interleave(2)), seeds=seeds)
    assert torch.allclose(same.samples, plain.samples, rtol=0, atol=1e-9)
    assert torch.equal(same.evaluations, plain.evaluations)
    sizes = torch.tensor([3, 9, 9, 4])
    mixed = two(prior(sizes), cost(sizes, aim.repeat_interleave(2)), seeds=seeds)
    found = mixed.samples.ne(0).any(2).sum(1)
    variant = mixed.history["variant"][-1]
    assert torch.equal(found, sizes[torch.tensor([0, 2]) + variant])
    assert int(found[0]) == 3 and int(found[1]) == 9  # of which such sizes are likely
    assert torch.allclose((mixed.samples.square().sum((1, 2)) - aim).square(), mixed.costs)
    assert mixed.network.forward_rows == int(mixed.evaluations.sum())
    alone = replace(two)(prior(sizes[:2]), cost(sizes[:2], aim[:1].expand(2)), seeds=seeds[:1])
    assert torch.allclose(alone.samples, mixed.samples[:1], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="2 seeds of 2 variants: expected 2, as many as rows"):
        two(prior(sizes[:2]), cost(sizes, aim.repeat_interleave(2)), seeds=seeds)
    with pytest.raises(CostError, match="expected 4, 2 variants of 2 seeds"):
        two(prior(sizes), cost(sizes[:2], aim), seeds=seeds)
