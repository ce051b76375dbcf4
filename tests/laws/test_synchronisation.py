"""Law 11: no hidden host synchronisation, on every method, without an accelerator.

Between the first and the last evaluation of the network the host waits for the device at most once
per iteration of an optimizer, to learn how many rows still run; never inside a solve and never
between the steps of a sampler. Operations never mix tensors of host and device, and no tensor is
made elsewhere than where the states are, but for the numbers of a grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctrlgen import load
from ctrlgen.costs import NegativePSNR, PropertyCost
from ctrlgen.domains.images.operators import SuperResolution
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.methods import TFG, DFlow
from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.methods.regularizers import Chi
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import LBFGS, FunctionObjective
from ctrlgen.optimizers.workingset import WorkingSet
from ctrlgen.sampling.grids import Uniform
from ctrlgen.solvers import Midpoint
from ctrlgen.testing import DEVICE, Accelerator, Ledger, watched
from tests.laws.cases import CASES
from tests.molecules.tiny_molecules import save_prior, save_regressor

SEEDS = [7, 3, 11, 2]
ENDS = 20
"""Waits before the first and after the last evaluation: a constant, whatever the steps."""

READS = {
    # A sweep backwards ends with one read, of which rows go on, as every trial forwards does.
    "optimal-control": 2,
    "optimal-control-dense": 2,
    "optimal-control-adam": 2,
    # Beside the optimizer's: how many rows start a group at each step, one read for all steps.
    "flowgrad": 2,
}
"""Reads between two evaluations of the network, where it is not one."""

CONSTANTS = "ctrlgen/rows/constants.py"

LEAVING = (
    "dflow", "dmplug", "evolution", "flowgrad", "oc-flow", "optimal-control", "renoising",
    "trust-region",
)  # fmt: skip
"""Methods whose rows leave when they are done; all others take a fixed number of steps."""

ON_THE_HOST = (
    "ctrlgen/rows/seeds.py",  # come from the user
    "ctrlgen/rows/constants.py",  # are moved
    "ctrlgen/sampling/levels.py",
    "ctrlgen/sampling/grids.py",  # these and the rest: numbers of the grid, once per run
    "ctrlgen/priors/flows.py",  # one time for all samples, which stays there
    "ctrlgen/solvers/fixed.py",
    "ctrlgen/methods/starts.py",
    "ctrlgen/methods/analytic/pigdm.py",
    "ctrlgen/methods/analytic/conjugate_coefficients.py",
)
"""Who may make host tensors, none of which is copied at every step."""

MOVES = 12
"""Constants that a run may move to the device, each of them once."""


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    with Accelerator() as accelerator:
        yield accelerator


def check(ledger: Ledger, reads: int) -> None:
    """The law, on one run."""
    assert not ledger.mixed, ledger.mixed
    reading = [entry for entry in ledger.within if entry[1].split(":")[0] != CONSTANTS]
    within = Counter(before for _, _, before in reading)
    worst = max(within.values(), default=0)
    assert worst <= reads, [entry for entry in reading if within[entry[2]] == worst]
    assert len(ledger.within) - len(reading) <= MOVES, ledger.within
    assert len(ledger.log) - len(ledger.within) <= ENDS, ledger.log


def steps(ledger: Ledger) -> None:
    """No read at all on the way: there is no optimizer."""
    reading = [entry for entry in ledger.within if entry[1].split(":")[0] != CONSTANTS]
    assert not reading, Counter(reading)


def test_a_method_does_not_keep_the_device_waiting(
    problem_case: Any, request: pytest.FixtureRequest, accelerator: Accelerator
) -> None:
    """And ends there with what it gives on the host."""
    index = torch.arange(4).to(DEVICE)
    method, prior, cost = problem_case.problem(index, torch.float64)
    results: list[Result] = []

    def run(*arguments: Any, **options: Any) -> None:
        results.append(method(*arguments, **options))

    ledger = watched(accelerator, run, prior, cost, SEEDS)
    for key, value in problem_case.whole().items():
        there = getattr(results[0], key)
        assert there.device == DEVICE, key
        assert torch.allclose(there.cpu(), value, rtol=1e-9, atol=1e-9, equal_nan=True), key
    name = request.node.callspec.id.removeprefix("method:")
    check(ledger, READS.get(name, 1))
    if not name.startswith(LEAVING):
        steps(ledger)
    host = {where for _, where in ledger.host if not where.startswith(ON_THE_HOST)}
    assert not host, ledger.host


def test_secants_do_not_keep_the_device_waiting(accelerator: Accelerator) -> None:
    """One read a round, whoever leaves and whoever turns along the tangent."""
    method, prior, cost = CASES["method:dflow"].problem(torch.arange(4).to(DEVICE), torch.float64)
    method = replace(method, initializer=MultiSecant(6, 2, patience=1))
    check(watched(accelerator, method, prior, cost, SEEDS), 1)


@pytest.mark.parametrize(
    "method",
    [
        DFlow(solver=Midpoint(1), optimizer=LBFGS(max_iterations=2), regularizer=Chi(0.01)),
        TFG(grid=Uniform(2, 0.1), clock=None, rho=0.003, mu=0.003, gamma=0.05, draws=2),
    ],
    ids=["dflow", "tfg"],
)
def test_steering_molecules_does_not_keep_the_device_waiting(
    method: Any, accelerator: Accelerator, tmp_path: Path
) -> None:
    """With all that takes part there: masks, guide, valences, bounds; on small networks."""
    prior = load(save_prior(tmp_path, 14, 9)).bind(counts=torch.tensor([7, 5])).to(DEVICE)
    guide = Guide(regressor(str(save_regressor(tmp_path, "guide", 14, 1))).to(DEVICE), ["gap"])
    cost = PropertyCost(guide, 5000.0, 5000.0, scale=1000.0) + 0.3 * ValenceCost("qm9-heavy")
    ledger = watched(accelerator, method, prior, cost, SEEDS[:2])
    check(ledger, 1)
    if isinstance(method, TFG):
        steps(ledger)


def test_compaction_does_not_stop_the_device(accelerator: Accelerator) -> None:
    """Rows that leave cost no read of their own: one per round, as without them."""
    scale = torch.tensor([1.0, 10.0, 100.0, 1000.0]).to(DEVICE)
    objective = FunctionObjective(
        lambda x, scale: (scale[:, None] * (x - 1).square()).sum(1) + x.cos().sum(1), scale=scale
    )
    with accelerator.watching() as ledger:
        found = LBFGS(max_iterations=15).minimize(objective, torch.zeros(4, 3).to(DEVICE))
    iterations = found.iterations.tolist()
    assert len(set(iterations)) > 1  # they left one after the other
    reads = [what for what, _, _ in ledger.log]
    assert reads.count("copy to the host") == found.rounds
    assert len(reads) <= found.rounds + 2


def test_what_is_counted(accelerator: Accelerator) -> None:
    """The ledger itself: what waits, what fails, what is free."""
    x = torch.randn(3, 4).to(DEVICE)
    waits = {
        "value read": [lambda: float(x.sum()), lambda: bool((x > 0).any())],
        "nonzero": [lambda: x.nonzero()],
        "boolean index": [lambda: x[x > 0], lambda: x[x[:, 0] > 0]],
        "masked_select": [lambda: x.masked_select(x > 0)],
        "equal": [lambda: torch.equal(x, x)],
        "copy to the host": [x.cpu, x.tolist],
        "host data to the device": [
            lambda: torch.tensor([1.0], device=DEVICE),
            lambda: torch.as_tensor(2.0, device=DEVICE),
            lambda: x.new_tensor([1.0]),
            lambda: torch.ones(2).to(DEVICE),
        ],
    }
    for what, calls in waits.items():
        for call in calls:
            with accelerator.watching() as ledger:
                call()
            assert [entry[0] for entry in ledger.log] == [what], what
    free = [
        lambda: x.new_full((2,), 3.0),
        lambda: torch.where(x > 0, 1, x),
        lambda: x[torch.arange(2, device=DEVICE)],
        lambda: x.clone().__setitem__(x > 0, 0),
        lambda: x + 2.0,
        lambda: x.to(torch.float64),
    ]
    for call in free:
        with accelerator.watching() as ledger:
            call()
        assert not ledger.log and not ledger.mixed and not ledger.host
    with accelerator.watching() as ledger:
        _ = x + torch.ones(4)
    assert ledger.mixed.total() == 1 and ledger.host.total() == 1


def test_numbers_are_those_of_the_host(accelerator: Accelerator) -> None:
    x = torch.randn(3, 4).double()
    there = x.to(DEVICE).requires_grad_()
    (gradient,) = torch.autograd.grad((there.sin() * there).sum(), there)
    assert gradient.device == DEVICE
    assert torch.equal(gradient.cpu(), x.sin() + x * x.cos())


def test_a_row_that_is_done_leaves_for_a_fiftieth_of_an_objective_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So rows leave at once: to wait until several are done would save nothing."""
    counts: dict[str, list[int]] = {"leave": [], "evaluate": []}
    total = 0

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal total
            total += 1
            return func(*args, **(kwargs or {}))

    def counted(name: str, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = total
            value = call(*args, **kwargs)
            counts[name].append(total - before)
            return value

        return run

    monkeypatch.setattr(WorkingSet, "_compact", counted("leave", WorkingSet._compact))
    monkeypatch.setattr(WorkingSet, "evaluate", counted("evaluate", WorkingSet.evaluate))
    prior = load("mnist")
    cost = NegativePSNR(SuperResolution(2), SuperResolution(2)(torch.zeros(2, 1, 28, 28)))
    method = DFlow(optimizer=LBFGS(max_iterations=2), target=torch.tensor([-5.0, -100.0]))
    with Operations():
        method(prior, cost, seeds=[0, 1])
    assert min(counts["leave"]) > 0 and max(counts["leave"]) * 50 < min(counts["evaluate"])
