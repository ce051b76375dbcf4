r"""Where to start: the first source point x_0 of a method that optimises it.

    SourceSample   x_0 = z ~ source
    Blend          x_0 = √a · y(0) + √(1−a) · z,   y(0): the flow solved back from y(1) = H†y
                   (Ben-Hamu et al., arXiv 2402.14017, eq 8)
    GuidedStart    an OT-ODE solution of the inverse problem, solved back to its source
    Refined        another start, brought onto the measurement by Newton-like rounds

The guided start integrates the velocity of `ctrlgen.methods.guided_velocity`, in `steps` Euler
steps from x_{t_0} = α H†y + σ z on; where H is not linear, H†y is what `pinv` gives. One forward
and one backward pass per step, one batched solve back, and the optimiser starts next to a solution.

The optimiser's own solve Φ, of a few large steps, does not lead from that source to the guided
sample: it starts some 20 dB away. A round of refinement needs no gradient,

    x = Φ(x_0),    x_0 <- x_0 + a (Ψ(x + K(y − Hx)) − Ψ(x)),    K = r²H^T (r²HH^T + σ_y²I)^{-1},

with Ψ the flow solved back and r² = max(mean (y − Hx)² − σ_y², 0): a quasi-Newton step towards
Φ(x_0) = x + K(y − Hx), in which Ψ stands for the inverse of Φ; only its differences enter, so an
inexact Ψ costs rounds, not accuracy. Without noise K = H†; with noise the rounds fade out where the
residual is as large as the noise. [Derived here.]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.guided_velocity import guided_velocity
from ctrlgen.operators.base import LinearOperator, Measurement
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, flat
from ctrlgen.rows.seeds import Seeds
from ctrlgen.solvers import Solver

__all__ = ["Blend", "GuidedStart", "Initializer", "Refined", "SourceSample"]

_GUIDED = 3  # stream of the noise that the guided start adds


class Initializer(ABC):
    """Chooses x_0 for every sample."""

    def check(self, prior: Prior, measurement: Measurement | None) -> None:  # noqa: B027
        """Raise before any compute where the problem lacks what the initializer needs."""

    def aimed(self, cost: CostLike, target: float | Tensor | None) -> Initializer:
        """The initializer for a cost and a target; itself where the measurement says enough."""
        return self

    @abstractmethod
    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        """Source points, shape of z, without a graph.

        Args:
            prior: whose source it is.
            measurement: of the cost, if it has one.
            seeds: one per sample.
            z: draws from the source for these seeds, shape (B, *).
        """

    def first_points(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        """`check`, then source points; a row that is not finite is the draw z instead."""
        self.check(prior, measurement)
        x0 = self(prior, measurement, seeds, z)
        return torch.where(expand_like(flat(x0).isfinite().all(1), z), x0, z)

    def config(self) -> dict[str, Any]:
        """Arguments that rebuild it."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class SourceSample(Initializer):
    """A draw from the source."""

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        return z


class _FromMeasurement(Initializer):
    def check(self, prior: Prior, measurement: Measurement | None) -> None:
        if measurement is None:
            raise ValueError(
                f"initializer: {type(self).__name__} needs a cost with a measurement (operator and "
                "y); use SourceSample() for other costs"
            )


class Blend(_FromMeasurement):
    """The paper's blend of noise with the source of the pseudo-inverse.

    Args:
        weight: a in [0, 1], share of the variance that comes from the backward solution.
        solver: solves back from t = 1; 10 midpoint steps on the prior's grid by default.
        rescale: bring the backward solution to the typical norm √d of the source first.
    """

    def __init__(
        self, weight: float = 0.1, solver: Solver | None = None, rescale: bool = False
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a share in [0, 1], got {weight}")
        self.weight, self.solver, self.rescale = weight, solver, rescale

    def config(self) -> dict[str, Any]:
        return {"weight": self.weight, "solver": self.solver, "rescale": self.rescale}

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None  # `check` has seen to it
        with torch.no_grad():
            proxy = measurement.operator.pinv(measurement.y).to(z)
            back = prior.encode(proxy, self.solver or prior.solver(10))
            if self.rescale:
                norm = prior.source.degrees_of_freedom(back).sqrt() / prior.source.radius(back)
                back = back * expand_like(norm, back)
            return prior.source.project(self.weight**0.5 * back + (1 - self.weight) ** 0.5 * z)


class GuidedStart(_FromMeasurement):
    """The source of a guided sample (OT-ODE), for operators on the prior's own states.

    Exact for linear operators; others must be differentiable and have a pseudo-inverse.

    Args:
        steps: Euler steps of the guided flow.
        start: time t_0 in (0, 1) at which it begins.
        temperature: scale of the noise z, >= 0: 1 for a sample, less for a smoother start, nearer
            to the mean of what the measurement allows.
        solver: solves the result back to t = 0; 10 midpoint steps on the prior's grid by default.
    """

    def __init__(
        self,
        steps: int = 10,
        start: float = 0.1,
        temperature: float = 1.0,
        solver: Solver | None = None,
    ) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps: expected a positive integer, got {steps!r}")
        if not 0 < start < 1:
            raise ValueError(f"start: expected a time in (0, 1), got {start}")
        if not temperature >= 0:
            raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
        self.steps, self.start, self.temperature = steps, start, temperature
        self.solver = solver

    def config(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "start": self.start,
            "temperature": self.temperature,
            "solver": self.solver,
        }

    def check(self, prior: Prior, measurement: Measurement | None) -> None:
        super().check(prior, measurement)
        assert measurement is not None
        operator = measurement.operator
        if not isinstance(operator, LinearOperator):
            try:
                operator.pinv(measurement.y)
            except NotImplementedError as error:
                raise ValueError(
                    f"initializer: GuidedStart needs a pseudo-inverse, {error}; use SourceSample()"
                ) from error
        try:
            prior.codec.log_det(measurement.y.new_zeros(1, *prior.source.shape))
        except NotImplementedError as error:
            raise ValueError(
                "initializer: GuidedStart needs a codec that scales states, got "
                f"{type(prior.codec).__name__}; use Blend() or SourceSample()"
            ) from error

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None
        times = torch.linspace(self.start, 1, self.steps + 1, dtype=z.dtype, device="cpu").tolist()
        at = prior.flow.path(z.new_full((), self.start))
        noise = prior.source.sample(seeds, _GUIDED, dtype=z.dtype, device=z.device)
        proxy = prior.codec.encode(measurement.operator.pinv(measurement.y).to(z))
        x = at.alpha * proxy + at.sigma * self.temperature * noise
        for t, after in pairwise(times):
            x = x + (after - t) * guided_velocity(prior, measurement, x, t)
        solver = self.solver or prior.solver(10)
        with torch.no_grad():
            return prior.source.project(solver.invert(BoundVelocity(prior), x))


class Refined(_FromMeasurement):
    """Another start, brought onto the measurement; for linear operators.

    Every sample keeps the point of the round with the least residual. A round solves forth once and
    back twice: 46 evaluations of the network by default, and no backward pass.

    Args:
        start: chooses the point to begin with; a guided start by default.
        rounds: of refinement.
        damping: a in (0, 1].
        solver: Φ, that of the method; three midpoint steps by default, as `DFlow` has.
        inverse: solves back; 10 midpoint steps on the prior's grid by default.
    """

    def __init__(
        self,
        start: Initializer | None = None,
        rounds: int = 4,
        damping: float = 0.5,
        solver: Solver | None = None,
        inverse: Solver | None = None,
    ) -> None:
        if not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"rounds: expected a positive integer, got {rounds!r}")
        if not 0 < damping <= 1:
            raise ValueError(f"damping: expected a share in (0, 1], got {damping}")
        if start is not None and not isinstance(start, Initializer):
            raise TypeError(f"start: expected an Initializer, got {type(start).__name__}")
        self.start = start or GuidedStart()
        self.rounds, self.damping = rounds, damping
        self.solver, self.inverse = solver, inverse

    def config(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "rounds": self.rounds,
            "damping": self.damping,
            "solver": self.solver,
            "inverse": self.inverse,
        }

    def check(self, prior: Prior, measurement: Measurement | None) -> None:
        super().check(prior, measurement)
        self.start.check(prior, measurement)
        assert measurement is not None
        _check_linear(self, measurement)

    @torch.no_grad()
    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None
        operator = measurement.operator
        solver, inverse = self.solver or prior.solver(3), self.inverse or prior.solver(10)
        x0 = self.start(prior, measurement, seeds, z)
        best, least = x0, x0.new_full((len(x0),), torch.inf)
        for round in range(self.rounds + 1):
            x = prior.generate(x0, solver)
            residual = operator.observed(measurement.y.to(x) - operator(x))
            error = flat(residual).square().sum(1) / operator.measured(residual).to(x)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(expand_like(better, x0), x0, best)
            if round < self.rounds:
                nearer = x + self._correction(measurement, residual, error)
                step = prior.encode(nearer, inverse) - prior.encode(x, inverse)
                x0 = prior.source.project(x0 + self.damping * step)
        return best

    def _correction(self, measurement: Measurement, residual: Tensor, error: Tensor) -> Tensor:
        """K(y − Hx), in the space of signals."""
        operator, noise = measurement.operator, measurement.noise
        if noise == 0:
            return operator.pinv(residual)
        assert isinstance(operator, LinearOperator)
        r2 = (error - noise**2).clamp_min(0)
        return expand_like(r2, residual) * operator.solve(residual, r2, noise)


def _check_linear(initializer: Initializer, measurement: Measurement) -> None:
    if not isinstance(measurement.operator, LinearOperator):
        raise ValueError(
            f"initializer: {type(initializer).__name__} needs a linear operator, got "
            f"{type(measurement.operator).__name__}; use Blend() or SourceSample()"
        )
