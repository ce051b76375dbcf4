"""Optimal control, FlowGrad, OC-Flow, D-Flow and DMPlug against their formulas, to 1e-9.

See `test_parity`. Each is given two iterations of its optimizer over a short sampler, whose
gradients here are autograd's through the sampler written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, Reversed
from ctrlgen.methods import DFlow, DMPlug, FlowGrad, OCFlow, OptimalControl
from ctrlgen.methods.regularizers import Chi
from ctrlgen.optimizers import Adam, GradientDescent
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.sampling.grids import Respaced, Uniform
from ctrlgen.solvers import Midpoint

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
BOUND = 0.6
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


def best(iterates: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of (value (B,), result (B, *)) of every iterate the result of the lowest value, by row."""
    values = torch.stack([value.detach() for value, _ in iterates])
    places = values.argmin(0)
    return torch.stack([iterates[int(k)][1].detach()[row] for row, k in enumerate(places)])


def descended(
    value: Callable[[Tensor], Tensor], u: Tensor, step: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The best of u and its two next iterates."""
    iterates = [(value(u), u)]
    for _ in range(2):
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(u).sum(), u)
        u = step(u.detach(), gradient)
        iterates.append((value(u), u))
    return best(iterates)


# ---------------------------------------------------------------- optimal control, as released


def test_optimal_control_as_released(stub: Any) -> None:
    """Table respaced to three, ancestral steps of the clipped x̂ under frozen noise, the last one
    clean; k = −Q_u/(ω + α) and AdamW."""
    y, damping, rate = stub.y, 1e-3, 5e-3
    method = OptimalControl.preset("released", grid=Respaced(3), iterations=2, **DOUBLE)
    cost = FunctionCost(
        lambda x, y: (x @ stub.matrix.T - y).square().sum(1).sqrt(), per_sample={"y": y}
    )
    found = method(stub.diffusion, cost, seeds=stub.seeds)
    beta = [1e-4 + (0.02 - 1e-4) * i / 999 for i in (999, 499)]  # ⌊999 τ⌋, τ = 1 and 0.5005
    omega = [1e-6 * ((1 - b) / b) ** 0.5 / (0.999 / 3) ** 2 for b in beta]

    def end(controls: Tensor) -> Tensor:
        x = stub.z
        for k, (i, j) in enumerate(((500, 0), (0, -1))):
            x = x + controls[:, k]
            x = stub.posterior(x, stub.data(x, i).clamp(-BOUND, BOUND), i, j, stub.fresh(k))
        return x

    def value(controls: Tensor) -> Tensor:
        energy = sum(0.5 * w * controls[:, k].square().sum(1) for k, w in enumerate(omega))
        return stub.norm(end(controls)) + energy

    adam = stub.adam(rate)
    weight = torch.tensor(omega, dtype=torch.float64).reshape(1, 2, 1) + damping

    def step(u: Tensor, gradient: Tensor) -> Tensor:
        return adam(u, gradient / weight, decay=0.01)

    run = replace(method, clip=BOUND)
    assert method.clip == 1.0
    found = run(stub.diffusion, cost, seeds=stub.seeds)
    controls = descended(value, torch.zeros(3, 2, 4, dtype=torch.float64), step)
    assert torch.allclose(found.controls, controls, **NEAR)
    assert torch.allclose(found.samples, end(controls), **NEAR)
    assert found.network.forward_rows == 3 * 3 * 2  # two steps, the first rollout and two more


# ---------------------------------------------------------------- FlowGrad and OC-Flow


def rolled(stub: Any, controls: Tensor, place: str, start: Tensor | None = None) -> Tensor:
    """Two Euler steps of ½ under control of the state or the velocity."""
    x = stub.z if start is None else start
    for k, t in enumerate((0.0, 0.5)):
        u = controls[:, k]
        x = x + 0.5 * (stub.velocity(x, t) + u) if place == "velocity" else x + u
        if place == "state":
            x = x + 0.5 * stub.velocity(x, t)
    return x


def run_of(method: Any, stub: Any, cost: Cost | None = None) -> Any:
    run = replace(method, grid=Uniform(2), **DOUBLE)
    return run(stub.flow, cost or stub.cost(), seeds=stub.seeds)


def descent(rate: float) -> GradientDescent:
    return GradientDescent(learning_rate=rate, max_iterations=2)


def test_flowgrad_without_groups(stub: Any) -> None:
    found = run_of(FlowGrad(threshold=None, optimizer=descent(0.05)), stub)
    controls = descended(
        lambda u: stub.square(rolled(stub, u, "state")),
        torch.zeros(3, 2, 4, dtype=torch.float64),
        lambda u, g: u - 0.05 * g,
    )
    assert torch.allclose(found.controls, controls, **NEAR)


def test_groups_of_flowgrad_close_with_the_step_that_exceeds(stub: Any) -> None:
    """The gradient of the first of two descent steps, group by group, as the authors' code."""
    n, threshold, rate = 8, 0.08, 1e-3
    optimizer = GradientDescent(learning_rate=rate, max_iterations=1)
    method = FlowGrad(threshold=threshold, optimizer=optimizer, grid=Uniform(n), **DOUBLE)
    found = method(stub.flow, Reversed(torch.zeros_like(stub.z)), seeds=stub.seeds)
    states, slopes, x = [], [], stub.z
    for k in range(n):
        states.append(x)
        slopes.append(stub.velocity(x, k / n))
        x = x + slopes[-1] / n
    sizes = set()
    for row in range(3):
        groups, members, total = [], [], 0.0
        for k in range(n):
            near = [slopes[j][row] for j in (k - 1, k + 1) if 0 <= j < n]
            bend = max(float((v - slopes[k][row]).square().sum()) for v in near)
            total += bend / float(slopes[k][row].square().sum())
            members.append(k)
            if total > threshold or k == n - 1:
                groups.append(members)
                members, total = [], 0.0
        sizes.add(tuple(len(group) for group in groups))
        adjoint, expected = 2 * x[row], [torch.empty(0)] * n
        for group in reversed(groups):
            start = group[0]
            pulled = stub.product(
                lambda v, t=start / n: stub.velocity(v, t),
                states[start][row : row + 1],
                adjoint[None],
            )
            adjoint = adjoint + len(group) / n * pulled[0]
            for k in group:
                expected[k] = adjoint
        assert torch.allclose(found.controls[row], -rate * torch.stack(expected), **NEAR)
    assert any(1 < len(size) < n for size in sizes)


def test_oc_flow_as_derived(stub: Any) -> None:
    found = run_of(OCFlow(penalty=0.3, optimizer=descent(0.1)), stub)

    def value(u: Tensor) -> Tensor:
        energy = 0.5 * 0.3 * 0.5 * u.square().sum((1, 2))
        return stub.square(rolled(stub, u, "velocity")) + energy

    still = torch.zeros(3, 2, 4, dtype=torch.float64)
    controls = descended(value, still, lambda u, g: u - 0.1 * g)
    assert torch.allclose(found.controls, controls, **NEAR)


def test_oc_flow_as_released_for_images(stub: Any) -> None:
    """u ← 0.995 u − 2.5 ∇C, the state shifted before the network sees it."""
    preset = OCFlow.preset("released-image")
    assert preset.grid == Uniform(100) and preset.optimizer.max_iterations == 15
    method = replace(preset, optimizer=replace(preset.optimizer, max_iterations=2))
    cost = 0.01 * stub.cost()  # of the order at which that rate goes down
    found = run_of(method, stub, cost)
    u = torch.zeros(3, 2, 4, dtype=torch.float64)
    iterates = []
    for turn in range(3):
        u = u.detach().requires_grad_()
        value = 0.01 * stub.square(rolled(stub, u, "state"))
        iterates.append((value + 0.5 * 0.002 * u.square().sum((1, 2)), u))
        if turn < 2:
            (gradient,) = torch.autograd.grad(value.sum(), u)
            u = 0.995 * u - 2.5 * gradient
    assert torch.allclose(found.controls, best(iterates), **NEAR)


def test_oc_flow_as_released_for_molecules(stub: Any) -> None:
    """The source point moves at no price; the energy is a mean over points, the norm is bounded."""
    preset = OCFlow.preset("released-molecule")
    assert preset.grid == Uniform(50) and preset.penalty == 0.01
    optimizer = preset.optimizer
    assert (optimizer.learning_rate, optimizer.max_iterations, optimizer.clip_norm) == (
        1.0,
        5,
        10.0,
    )

    def network(x: Tensor, t: Tensor) -> Tensor:
        return stub.network(x.flatten(1), t).reshape(x.shape)

    prior = Prior(Flow(network, CondOT()), Gaussian((2, 2)))  # two points of two numbers
    cost = FunctionCost(
        lambda x, y: (x.flatten(1) @ stub.matrix.T - y).square().sum(1), per_sample={"y": stub.y}
    )
    bound, rate = 0.5, 0.2
    method = replace(
        preset, grid=Uniform(2), penalty=0.3, **DOUBLE,
        optimizer=GradientDescent(learning_rate=rate, max_iterations=2, clip_norm=bound),
    )  # fmt: skip
    found = method(prior, cost, seeds=stub.seeds)

    def value(u: Tensor) -> Tensor:  # (3, 3, 4): two controls and the shift of the source point
        energy = 0.5 * 0.3 * (0.5 * u[:, :2].square().sum((1, 2))) / 2
        return stub.square(rolled(stub, u[:, :2], "velocity", stub.z + u[:, 2])) + energy

    def step(u: Tensor, gradient: Tensor) -> Tensor:
        norm = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        assert bool((norm > bound).any())
        return u - rate * gradient * (bound / norm).clamp_max(1)

    controls = descended(value, torch.zeros(3, 3, 4, dtype=torch.float64), step)
    assert torch.allclose(found.controls.flatten(2), controls, **NEAR)
    end = rolled(stub, controls[:, :2], "velocity", stub.z + controls[:, 2])
    assert torch.allclose(found.samples.flatten(1), end, **NEAR)


# ---------------------------------------------------------------- the source point


@pytest.mark.parametrize("projected", [False, True], ids=["d-flow", "d-flow-deblur"])
def test_d_flow(projected: bool, stub: Any) -> None:
    """−PSNR of Hx and y, or of H†Hx and H†y (Table 6), with 0.01 χ; two midpoint steps."""
    cost = NegativePSNR(stub.operator, stub.y, 0.05, projected=projected)
    method = DFlow(solver=Midpoint(2), optimizer=descent(0.01), regularizer=Chi(0.01), **DOUBLE)
    found = method(stub.flow, cost, seeds=stub.seeds)
    inverse = torch.linalg.pinv(stub.matrix)

    def flow(x: Tensor) -> Tensor:
        for k in range(2):
            middle = x + 0.25 * stub.velocity(x, k / 2)
            x = x + 0.5 * stub.velocity(middle, k / 2 + 0.25)
        return x

    def value(x0: Tensor) -> Tensor:
        residual = flow(x0) @ stub.matrix.T - stub.y
        if projected:
            residual = residual @ inverse.T
        psnr = 10 * (residual.square().mean(1) + 1e-12).log10() - 20 * math.log10(2)
        r2 = x0.square().sum(1)
        return psnr + 0.01 * (0.5 * r2 - 3 * 0.5 * r2.log())

    x0 = descended(value, stub.z, lambda u, g: u - 0.01 * g)
    assert torch.allclose(found.controls, x0, **NEAR)
    assert torch.allclose(found.samples, flow(x0), **NEAR)


def test_dmplug(stub: Any) -> None:
    """DDIM(0) with ε̂ of the clipped x̂, the result clipped; Adam on the input."""
    method = DMPlug(
        clip=BOUND, grid=stub.grid, optimizer=Adam(learning_rate=0.01, max_iterations=2), **DOUBLE
    )
    found = method(stub.diffusion, stub.cost(), seeds=stub.seeds)

    def reverse(x: Tensor) -> Tensor:
        for i, j in ((550, 200), (200, -1)):
            bar = stub.bars[i]
            data = stub.data(x, i).clamp(-BOUND, BOUND)
            noise = (x - bar**0.5 * data) / (1 - bar) ** 0.5
            x = stub.ddim(data, noise, i, j, torch.zeros_like(x), 0.0)
        return x.clamp(-BOUND, BOUND)

    z = descended(lambda z: stub.square(reverse(z)), stub.z, stub.adam(0.01))
    assert torch.allclose(found.controls, z, **NEAR)
    assert torch.allclose(found.samples, reverse(z), **NEAR)
