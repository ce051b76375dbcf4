"""Components follow their input to another device, without an accelerator to prove it on.

The pretended device of `ctrlgen.testing` computes on the host, so that what comes back is what the
CPU gives, and every operation on tensors of both places is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ctrlgen.priors.paths import VP, DiscreteVP
from ctrlgen.sampling.grids import DDPMUniform, Karras, Level, Uniform
from ctrlgen.solvers import Midpoint
from ctrlgen.testing import DEVICE, Accelerator

everything = torch.arange(4)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    with Accelerator() as accelerator:
        yield accelerator


def outputs_there(case: Any, accelerator: Accelerator) -> dict[str, Any]:
    with accelerator.watching() as ledger:
        outputs = case.rows(everything.to(DEVICE), torch.float64)
    assert not ledger.mixed, ledger.mixed
    for name, value in outputs.items():
        assert value.device == DEVICE, name
    return {name: value.cpu() for name, value in outputs.items()}


def test_what_is_moved_gives_the_same(device_case: Any, accelerator: Accelerator) -> None:
    here = device_case.whole()
    there = outputs_there(device_case, accelerator)
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert torch.allclose(value, there[name], rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_constants_follow_without_being_moved(
    following_case: Any, accelerator: Accelerator, staying: Any
) -> None:
    """A component that was never moved serves a device as well."""
    with staying():
        here = following_case.rows(everything, torch.float64)
        there = outputs_there(following_case, accelerator)
    for name, value in here.items():
        assert torch.allclose(value, there[name], rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_constants_are_moved_once(
    gradient_device_case: Any, accelerator: Accelerator, request: pytest.FixtureRequest
) -> None:
    """A second call, with its gradient, neither copies nor reads anything."""
    adaptive = "dopri5" in request.node.callspec.id
    function, x = gradient_device_case.gradient

    def call() -> None:
        state = x.to(DEVICE).requires_grad_()
        out = function(state)
        torch.autograd.grad(out.sum(), state)

    call()
    with accelerator.watching() as ledger:
        call()
    own = [entry for entry in ledger.log if entry[1].startswith("ctrlgen/")]
    if adaptive:  # how many rows have not arrived, at every step
        own = [entry for entry in own if not entry[1].startswith("ctrlgen/rows/batching.py")]
    assert not own and not ledger.mixed, (own, ledger.mixed)


def test_components_made_under_another_default_device_work_on_the_host() -> None:
    """A grid's and a path's tables stay numbers, whatever the default device."""

    def levels() -> list[list[Level]]:
        table = DiscreteVP.linear()
        grids = Uniform(3), DDPMUniform(3, table=table), Karras(3, 0.1, 10.0)
        return [grid(path) for grid in grids for path in (VP(), table)]

    wanted = levels()
    with torch.device("meta"):
        made = levels()
        solver = Midpoint(3)
        assert solver.positions().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert made == wanted
