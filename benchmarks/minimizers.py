"""The per-sample L-BFGS and those of torch and scipy behind one call, with what a run has cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from ctrlgen.optimizers import LBFGS, FunctionObjective

__all__ = ["Function", "Outcome", "by_scipy", "by_torch", "by_us", "random"]

PAIRS = 100
Function = Callable[[Tensor], Tensor]


class Outcome(NamedTuple):
    """What a run has cost: evaluations are those of one row or, summed over rows, of a batch."""

    iterations: int
    evaluations: int
    seconds: float
    value: float


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def by_us(function: Function, x0: Tensor, tolerance: float) -> Outcome:
    optimizer = LBFGS(
        max_iterations=5000, gradient_tolerance=tolerance, change_tolerance=0, history=PAIRS
    )
    began = time.process_time()
    found = optimizer.minimize(FunctionObjective(function), x0[None])
    seconds = time.process_time() - began
    return Outcome(int(found.iterations), int(found.calls), seconds, found.value.item())


def by_torch(
    function: Function,
    x0: Tensor,
    tolerance: float,
    iterations: int = 5000,
    done: Callable[[Tensor], bool] = lambda value: False,
) -> Outcome:
    """One torch.optim.LBFGS on the sum of all rows of x0, (B, d), until `done(values)`."""
    x = x0.clone().requires_grad_(True)
    evaluations, last = 0, torch.tensor(torch.nan)

    class Done(Exception):
        pass

    def closure() -> Tensor:
        nonlocal evaluations, last
        x.grad = None
        values = function(x)
        evaluations += 1
        last = values.detach()
        if done(last):
            raise Done
        values.sum().backward()
        return values.sum()

    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=iterations,
        max_eval=10**6,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=PAIRS,
        line_search_fn="strong_wolfe",
    )
    began = time.process_time()
    try:
        optimizer.step(closure)
        last = function(x).detach()
    except Done:
        pass
    seconds = time.process_time() - began
    count = optimizer.state[x].get("n_iter", 0)
    return Outcome(count, evaluations, seconds, last.median().item())


def by_scipy(function: Function, x0: Tensor, tolerance: float) -> Outcome:
    def value_and_gradient(z: Any) -> tuple[float, Any]:
        x = torch.tensor(z)[None].requires_grad_(True)
        value = function(x).sum()
        return value.item(), torch.autograd.grad(value, x)[0][0].numpy()

    options = {"maxiter": 5000, "maxfun": 10**6, "ftol": 0, "gtol": tolerance, "maxcor": PAIRS}
    began = time.process_time()
    found = scipy_minimize(
        value_and_gradient, x0.numpy(), jac=True, method="L-BFGS-B", options=options
    )
    return Outcome(found.nit, found.nfev, time.process_time() - began, float(found.fun))
