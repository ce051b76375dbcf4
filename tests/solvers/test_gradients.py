"""Gradients through a solve: direct, checkpointed, adjoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.solvers import RK4, Dopri5, Euler, FixedStep, Heun, Midpoint, Solver
from tests.solvers.transports import gradients, states

ORDERS: dict[type[FixedStep], int] = {Euler: 1, Midpoint: 2, Heun: 2, RK4: 4}
fixed = pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
Build = Callable[..., Any]


@fixed
def test_checkpointed_gradient_is_the_direct_one(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, x0 = prior_of(mixture(3, 4)).velocity, states(5, 4)
    direct = gradients(kind(6), velocity, x0)
    assert torch.allclose(
        gradients(kind(6, "checkpoint"), velocity, x0), direct, rtol=0, atol=1e-12
    )


@fixed
def test_direct_gradient_is_that_of_the_discrete_map(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, solver = prior_of(mixture(3, 2)).velocity, kind(4)
    x = states(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: solver(velocity, x), x, atol=1e-7)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_gradients_reach_what_the_velocity_closes_over(gradient: Any) -> None:
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    end = RK4(20, gradient)(lambda x, t: rate * x, torch.ones(1, 1, dtype=torch.float64))
    (slope,) = torch.autograd.grad(end.sum(), rate)
    assert float(slope) == pytest.approx(math.exp(0.5), rel=1e-6)


@pytest.mark.parametrize("kind", [Midpoint, RK4], ids=lambda kind: kind.__name__)
def test_adjoint_gradient_converges_to_the_direct_one(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(4, 3)
    errors = []
    for steps in (20, 40):
        direct = gradients(kind(steps), velocity, x0)
        adjoint = gradients(kind(steps, "adjoint"), velocity, x0)
        errors.append((adjoint - direct).abs().max() / direct.abs().max())
    assert 0 < errors[1] < 3e-3
    assert float(torch.log2(errors[0] / errors[1])) > ORDERS[kind] - 0.4


def test_adjoint_gradient_of_the_adaptive_solver(mixture: Build, prior_of: Build) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(4, 3)
    reference = gradients(RK4(80), velocity, x0)
    for gradient in ("direct", "adjoint"):
        found = gradients(Dopri5(1e-7, 1e-7, gradient), velocity, x0)
        assert torch.allclose(found, reference, rtol=1e-5, atol=1e-5)


def test_adjoint_keeps_no_graph_and_says_where_it_ends() -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    end = RK4(5, "adjoint")(lambda x, t: torch.sin(x), x)
    (once,) = torch.autograd.grad(end.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(once.sum(), x)


class Deep(torch.nn.Module):
    """A velocity with many activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            *(part for _ in range(6) for part in (torch.nn.Linear(16, 16), torch.nn.Tanh()))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


def saved_numbers(solver: Solver, network: Deep) -> int:
    """Numbers that the graph of a solve keeps, without the network's parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = solver(network, torch.randn(8, 16, requires_grad=True))
    assert end.requires_grad
    return sum(kept.values())


def test_memory_of_the_gradients() -> None:
    """Direct grows with the evaluations, by their activations; adjoint keeps the end alone."""
    network = Deep()
    few, many = (saved_numbers(Midpoint(steps), network) for steps in (3, 30))
    assert 9 < many / few < 11
    assert few > 6 * 6 * 8 * 16
    assert saved_numbers(Midpoint(30, "checkpoint"), network) <= 30 * 8 * 16 + 100
    assert saved_numbers(Midpoint(30, "adjoint"), network) <= 2 * 8 * 16


def test_checkpointed_steps_hold_only_states_between_them() -> None:
    """Activations of a step die with it: what lives while the next one is computed is its own."""
    import weakref

    alive: list[int] = []
    activations: list[weakref.ref[Tensor]] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alive.append(sum(ref() is not None for ref in activations))
        hidden = torch.tanh(x)  # backward keeps the output of tanh
        activations.append(weakref.ref(hidden.untyped_storage()))  # type: ignore[arg-type]
        return hidden * hidden

    end = Midpoint(10, "checkpoint")(velocity, torch.ones(2, 3, requires_grad=True))
    assert end.requires_grad
    assert max(alive) <= 2
