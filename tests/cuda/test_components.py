"""Every registered component on a device: as on the CPU, and whatever its batch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.rows.seeds import normal, rademacher, uniform
from ctrlgen.solvers import RK4, Euler, Heun, Midpoint, Solver

everything = torch.arange(4)


def apart(value: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    value, other = value.cpu().double(), other.cpu().double()
    assert value.shape == other.shape
    assert torch.equal(value.isnan(), other.isnan())
    value, other = value.nan_to_num(), other.nan_to_num()
    if value.numel() == 0:
        return 0.0
    return float((value - other).abs().max() / other.abs().max().clamp_min(1))


def test_a_component_computes_what_it_does_on_the_cpu(case: Any, place: torch.device) -> None:
    """In float64, to 1e-9; all that it returns is on the device."""
    here = case.rows(everything, torch.float64)
    there = case.rows(everything.to(place), torch.float64)
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert there[name].device.type == place.type, name
        assert there[name].dtype == value.dtype, name
        assert apart(there[name], value) <= 1e-9, name


def test_constants_follow_without_being_moved(
    following_case: Any, place: torch.device, registry: ModuleType
) -> None:
    with registry.staying():
        here = following_case.rows(everything, torch.float64)
        there = following_case.rows(everything.to(place), torch.float64)
    for name, value in here.items():
        assert there[name].device.type == place.type, name
        assert apart(there[name], value) <= 1e-9, name


@pytest.mark.parametrize("index", [[2], [3, 0, 1]], ids=str)
def test_a_row_does_not_see_its_batch(case: Any, index: list[int], place: torch.device) -> None:
    whole = case.rows(everything.to(place), torch.float64)
    part = case.rows(torch.tensor(index).to(place), torch.float64)
    for name, value in part.items():
        assert apart(value, whole[name].cpu()[index]) <= 1e-9, name


def test_gradients_are_those_of_the_cpu(gradient_case: Any, place: torch.device) -> None:
    function, x = gradient_case.gradient
    found = []
    for device in ("cpu", place):
        state = x.to(device).requires_grad_()
        found.append(torch.autograd.grad(function(state).sum(), state)[0])
    assert apart(found[1], found[0]) <= 1e-9


@pytest.mark.parametrize("stream", [0, 5, 2**40 + 3])
@pytest.mark.parametrize("shape", [(1,), (3, 7), (3, 32, 32)], ids=str)
def test_draws_are_the_same_to_the_bit(
    shape: tuple[int, ...], stream: int, place: torch.device
) -> None:
    seeds = torch.tensor([0, 7, 2**31, 2**62 + 11])
    for draw in (uniform, normal, rademacher):
        here = draw(seeds, shape, stream)
        assert torch.equal(draw(seeds.to(place), shape, stream).cpu(), here), draw.__name__
        assert torch.equal(draw(seeds, shape, stream, device=place).cpu(), here), draw.__name__
    here = uniform(seeds, shape, stream, dtype=torch.float64)
    assert torch.equal(uniform(seeds.to(place), shape, stream, dtype=torch.float64).cpu(), here)


@pytest.mark.parametrize("solver", [Euler(4), Midpoint(3), Heun(3), RK4(2)], ids=str)
def test_a_solve_does_not_wait(solver: Solver, place: torch.device) -> None:
    """Torch itself refuses whatever synchronises, once the steps' times are on the device."""
    x = normal([1, 2, 3], (5,), device=place)
    solver(lambda x, t: torch.tanh(x) - t[:, None] * x, x)
    if place.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        end = solver(lambda x, t: torch.tanh(x) - t[:, None] * x, x)
    finally:
        if place.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert bool(end.isfinite().all())
