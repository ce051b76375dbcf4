"""Cases of what integrates and minimises: paths, solvers, optimizers."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.adapters.azula import SchedulePath
from ctrlgen.optimizers import (
    LBFGS,
    Adam,
    FunctionObjective,
    GaussNewton,
    GradientDescent,
    Optimizer,
    ResidualObjective,
    WindowedVariance,
)
from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path
from ctrlgen.rows.batching import take
from ctrlgen.rows.seeds import uniform
from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint, Solver, Velocity
from tests.laws.cases.base import RATES, SEEDS, Case, D, Outputs, Vector, draw, pick


def schedule(tau: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(1.5 * tau), torch.sin(1.5 * tau + 0.02)


def path_case(path: Path) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        t = pick(uniform(SEEDS, (1,), 5, dtype=torch.float64).squeeze(1), index, dtype)
        at = path(t)
        back = path.time_at(at.log_snr)
        return {**at._asdict(), "wronskian": at.wronskian, "gamma": at.gamma, "back": back}

    times = 0.2 + 0.6 * uniform(SEEDS, (1,), 5, dtype=torch.float64).squeeze(1)
    # Every element is the same function of its own time.
    form = lambda t: path(t).alpha + path(t).sigma ** 2  # noqa: E731
    return Case(type(path), rows, (form, times), made=path)


PATHS = {
    "condot": CondOT(),
    "cosine": Cosine(),
    "vp": VP(),
    "ddpm": DiscreteVP.linear(),
    "edm": EDM(0.01, 20.0),
    "schedule": SchedulePath(schedule),
}


class Rated:
    """A velocity function with a rate of its own for every row, which leaves with it."""

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return Vector()(x, t, self.rate)

    def take(self, index: Tensor) -> Rated:
        return Rated(take(self.rate, index))


def solver_case(solver: Solver) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        velocity = Velocity(Rated(pick(RATES, index)))
        x = pick(draw(D), index, dtype)
        return {"end": solver(velocity, x), "source": solver.invert(velocity, x, 0.2)}

    return Case(
        type(solver), rows, (lambda x: solver(Velocity(Rated(RATES)), x), draw(D)), heavy=True,
        made=solver,
    )  # fmt: skip


SOLVERS: dict[str, Solver] = {
    "euler": Euler(5),
    "midpoint": Midpoint(3),
    "midpoint-checkpoint": Midpoint(3, "checkpoint"),
    "midpoint-adjoint": Midpoint(3, "adjoint"),
    "heun": Heun(grid=[0.0, 0.2, 1.0]),
    "rk4": RK4(2),
    "dopri5": Dopri5(1e-6, 1e-6),
}


def optimizer_case(optimizer: Optimizer) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        centre, scale = draw(D), 1 + draw(D, stream=33).square()

        def bowl(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
            return (scale * (x - centre).square() + 0.1 * (x - centre) ** 4).sum(1)

        def roots(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
            return torch.cat((scale.sqrt() * (x - centre), 0.1**0.5 * (x - centre) ** 2), 1)

        form = ResidualObjective if optimizer.needs_residual else FunctionObjective
        function = roots if optimizer.needs_residual else bowl
        objective = pick(form(function, centre=centre, scale=scale), index, dtype)
        start = pick(draw(D, stream=34), index, dtype)
        found = optimizer.minimize(objective, start, target=0.05)
        return {
            "x": found.x,
            "value": found.value,
            "gradient": found.gradient_norm,
            "status": found.status,
            "iterations": found.iterations,
            "calls": found.calls,
            "first": found.history["value"][:3].T,
        }

    kinds = (
        type(optimizer), ResidualObjective if optimizer.needs_residual else FunctionObjective
    )  # fmt: skip
    return Case(kinds, rows, heavy=True, rounding=1e-3, made=optimizer)


OPTIMIZERS: dict[str, Optimizer] = {
    "lbfgs": LBFGS(max_iterations=20),
    "adam": Adam(learning_rate=0.05, max_iterations=20),
    "gradient-descent": GradientDescent(learning_rate=0.02, momentum=0.5, max_iterations=20),
    "gauss-newton": GaussNewton(inner=3, radius=0.5, max_iterations=20),
    "adam-early": Adam(learning_rate=0.05, max_iterations=20, early=WindowedVariance(3, 4)),
}


PATH_CASES = {name: path_case(path) for name, path in PATHS.items()}
SOLVER_CASES = {name: solver_case(solver) for name, solver in SOLVERS.items()}
OPTIMIZER_CASES = {name: optimizer_case(optimizer) for name, optimizer in OPTIMIZERS.items()}
