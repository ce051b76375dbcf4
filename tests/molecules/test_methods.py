"""Every method that asks for no more than a gradient steers a molecular prior.

Guides, masks and zero centres of mass pass through all of them; linear operators of images do not
exist here, so methods that need one are not on the list. In float64 and with gentle strengths: a
method that throws its molecules about magnifies the last digit of a number to an Angstrom. On small
networks that have learned nothing: what is steered is right whatever they know; one run is on the
embedded prior and its guide.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ctrlgen import load
from ctrlgen.costs import PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.domains.molecules.states import split
from ctrlgen.methods import (
    CTDTM,
    DAPS,
    DPS,
    FTM,
    LGDMC,
    MPGD,
    NDTM,
    TFG,
    UGD,
    DFlow,
    DMPlug,
    FlowGrad,
    FreeDoM,
    Method,
    OCFlow,
    OptimalControl,
    PnPFlow,
    REDDiff,
)
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Karras, Uniform
from ctrlgen.solvers import Midpoint

if TYPE_CHECKING:
    from tiny_molecules import Cards

COUNTS = [9, 7, 8, 9]
SEEDS = [3, 1, 4, 7]
TARGET = 5000.0  # meV; QM9's mean gap is 6.9 eV
NOTHING = 1e-20

_STEPS = {"grid": Uniform(12, 0.02)}  # a flow's clock; at t = 0 no signal
_EULER = {"grid": Uniform(4), "optimizer": LBFGS(max_iterations=2)}

METHODS: dict[str, Method] = {
    "d-flow": DFlow(solver=Midpoint(3), optimizer=LBFGS(max_iterations=2)),
    "dmplug": DMPlug(grid=Uniform(4), optimizer=Adam(learning_rate=0.1, max_iterations=8)),
    "optimal-control": OptimalControl(grid=Uniform(4), rank=1, iterations=2, damping=1.0),
    "optimal-control-adam": OptimalControl(
        grid=Uniform(6), rank=0, update="adam", iterations=6, learning_rate=0.02
    ),
    "flowgrad": FlowGrad(**_EULER),
    "oc-flow": OCFlow(**_EULER),
    "ndtm": NDTM(
        **_STEPS, clock=None, iterations=2, terminal_weight=20.0,
        optimizer=Adam(learning_rate=0.05),
    ),
    "ctdtm": CTDTM(
        **_STEPS, clock=None, mode="linear", iterations=6, terminal_weight=1.0,
        optimizer=Adam(learning_rate=0.4),
    ),
    "ftm": FTM(
        **_STEPS, iterations=2, terminal_weight=20.0, optimizer=Adam(learning_rate=0.02)
    ),
    "dps": DPS(**_STEPS, clock=None, energy="cost", rho=0.003),
    "lgd-mc": LGDMC(**_STEPS, clock=None, energy="cost", rho=0.003, gamma=0.05, draws=2),
    "mpgd": MPGD(**_STEPS, clock=None, energy="cost", mu=0.003),
    "freedom": FreeDoM(**_STEPS, clock=None, rho=0.002),
    "ugd": UGD(grid=Uniform(8, 0.02), clock=None, rho=0.002, mu=0.001),
    "tfg": TFG(**_STEPS, clock=None, rho=0.003, mu=0.0),
    "pnp-flow": PnPFlow(grid=Uniform(12), fidelity="cost", draws=1, scale=0.07),
    "red-diff": REDDiff(
        grid=Uniform(20, 0.05), clock=None, form="cost", start="source",
        optimizer=Adam(learning_rate=0.05),
    ),
    "daps": DAPS(
        grid=Karras(4, 0.05, 10.0), ode_steps=4, langevin_steps=4, rate=1e-3, noise=0.3,
        fidelity="cost",
    ),
}  # fmt: skip


class Problem(NamedTuple):
    """A prior of four molecules, a guide to their gap, and the scale of its misses in meV."""

    prior: Prior
    guide: Guide
    scale: float

    def run(self, method: Method, rows: list[int], weight: float = 1.0) -> Any:
        bound = self.prior.bind(counts=torch.tensor([COUNTS[i] for i in rows]))
        wanted = torch.full((len(rows), 1), TARGET, dtype=torch.float64)
        cost = weight * PropertyCost(self.guide, wanted, wanted, scale=self.scale)
        return replace(method, dtype=torch.float64)(bound, cost, seeds=[SEEDS[i] for i in rows])


@functools.cache
def problem(prior: str, network: str, scale: float) -> Problem:
    guide = Guide(regressor(network).double(), ["gap"], "soft")
    return Problem(load(prior, dtype=torch.float64), guide, scale)


def masks(signal: Tensor) -> Tensor:
    return torch.arange(signal.shape[1]) < torch.tensor(COUNTS)[:, None]


def check(method: Method, problem: Problem) -> None:
    together = problem.run(method, [0, 1, 2, 3])
    signal, mask = together.samples, masks(together.samples)
    assert (together.status != Status.DIVERGED).all() and bool(signal.isfinite().all())
    assert not bool(signal[~mask].any())
    centre = split(signal).positions.sum(1) / mask.sum(1, keepdim=True)
    assert float(centre.abs().max()) < 1e-9
    # The same method under a cost that weighs nothing is the prior on its grid.
    unsteered = problem.run(method, [0, 1, 2, 3], NOTHING).costs / NOTHING
    assert float((together.costs / unsteered).median()) < 0.9
    alone = problem.run(method, [2])
    assert int(alone.evaluations[0]) == int(together.evaluations[2])
    assert torch.allclose(alone.samples[0], signal[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_molecule_is_steered_by_itself(name: str, cards: Cards) -> None:
    """Their small guide barely sees what it looks at, so that a small miss must weigh much."""
    scale = DEVIATION["gap"] / 8
    check(METHODS[name], problem(str(cards.prior), str(cards.guide), scale))


def test_a_molecule_of_the_embedded_prior_is_steered_by_itself() -> None:
    few = replace(METHODS["dps"], grid=Uniform(6, 0.02))
    check(few, problem("qm9-heavy", "qm9-heavy-guide", DEVIATION["gap"]))
