r"""Where to start: the first source point x_0 of a method that optimises it.

    SourceSample   x_0 = z ~ source
    Blend          x_0 = √a · y(0) + √(1−a) · z,   y(0): the flow solved back from y(1) = H†y
                   (Ben-Hamu et al., arXiv 2402.14017, eq 8)
    GuidedStart    an OT-ODE solution of the inverse problem, solved back to its source

The guided start integrates, in `steps` Euler steps from t_0 on,

    u(x|y) = u + (σW/α) (∂x̂/∂x)^T H^T (r²HH^T + σ_y²I)^{-1} (y − Hx̂),   r² = σ²/(α²+σ²),

from x_{t_0} = α H†y + σ z: conditional flow with p(x_1|x_t) taken as N(x̂, r²I) (Pokle et al.,
arXiv 2310.04432). One forward and one backward pass per step, one batched solve back, and the
optimiser starts next to a solution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ctrlgen.batching import expand_like, flat
from ctrlgen.flows import Prediction
from ctrlgen.operators import LinearOperator, Measurement
from ctrlgen.priors import BoundVelocity, Prior
from ctrlgen.seeds import Seeds
from ctrlgen.solvers import Midpoint, Solver

__all__ = ["Blend", "GuidedStart", "Initializer", "SourceSample", "guided_velocity"]

_GUIDED = 3  # stream of the noise that the guided start adds


class Initializer(ABC):
    """Chooses x_0 for every sample."""

    def check(self, prior: Prior, measurement: Measurement | None) -> None:  # noqa: B027
        """Raise before any compute where the problem lacks what the initializer needs."""

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
        solver: solves back from t = 1; 10 midpoint steps by default.
        rescale: bring the backward solution to the typical norm √d of the source first.
    """

    def __init__(
        self, weight: float = 0.1, solver: Solver | None = None, rescale: bool = False
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a share in [0, 1], got {weight}")
        self.weight, self.solver, self.rescale = weight, solver or Midpoint(10), rescale

    def config(self) -> dict[str, Any]:
        return {"weight": self.weight, "solver": self.solver, "rescale": self.rescale}

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None  # `check` has seen to it
        with torch.no_grad():
            proxy = measurement.operator.pinv(measurement.y).to(z)
            back = prior.encode(proxy, self.solver)
            if self.rescale:
                norm = prior.source.degrees_of_freedom(back).sqrt() / prior.source.radius(back)
                back = back * expand_like(norm, back)
            return prior.source.project(self.weight**0.5 * back + (1 - self.weight) ** 0.5 * z)


class GuidedStart(_FromMeasurement):
    """The source of a guided sample (OT-ODE); for linear operators on the prior's own states.

    Args:
        steps: Euler steps of the guided flow.
        start: time t_0 in (0, 1) at which it begins.
        temperature: scale of the noise z, >= 0: 1 for a sample, less for a smoother start, nearer
            to the mean of what the measurement allows.
        solver: solves the result back to t = 0; 10 midpoint steps by default.
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
        self.solver = solver or Midpoint(10)

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
        if not isinstance(measurement.operator, LinearOperator):
            raise ValueError(
                "initializer: GuidedStart needs a linear operator, got "
                f"{type(measurement.operator).__name__}; use Blend() or SourceSample()"
            )
        try:
            prior.codec.log_det(torch.zeros(1, *prior.source.shape))
        except NotImplementedError as error:
            raise ValueError(
                "initializer: GuidedStart needs a codec that scales states, got "
                f"{type(prior.codec).__name__}; use Blend() or SourceSample()"
            ) from error

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None
        times = torch.linspace(self.start, 1, self.steps + 1, dtype=z.dtype).tolist()
        at = prior.flow.path(torch.tensor(self.start, dtype=z.dtype, device=z.device))
        noise = prior.source.sample(seeds, _GUIDED, dtype=z.dtype, device=z.device)
        proxy = prior.codec.encode(measurement.operator.pinv(measurement.y).to(z))
        x = at.alpha * proxy + at.sigma * self.temperature * noise
        for t, after in pairwise(times):
            x = x + (after - t) * guided_velocity(prior, measurement, x, t)
        with torch.no_grad():
            return prior.source.project(self.solver.invert(BoundVelocity(prior), x))


def guided_velocity(prior: Prior, measurement: Measurement, x: Tensor, t: float) -> Tensor:
    """u(x|y) of the module's formula, shape of x, without a graph; one forward, one vjp.

    Args:
        prior: its codec must leave states as they are, or scale them (operators see signals): r
            is in the units of signals, by the mean scale where that of channels differs.
        measurement: with a linear operator.
        x: states at time t, shape (B, *).
        t: time in (0, 1).
    """
    operator = measurement.operator
    assert isinstance(operator, LinearOperator)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        seen: Prediction = prior.predict(x, t)
        signal = prior.codec.decode(seen.data)
        at = seen.coefficients
        with torch.no_grad():
            scale = torch.exp(prior.codec.log_det(x) / x[0].numel())  # signal units per state unit
            r2 = scale**2 * (at.sigma**2 / (at.alpha**2 + at.sigma**2)).flatten()
            residual = measurement.y.to(signal) - operator(signal)
            pull = operator.solve(residual, r2, measurement.noise)
        (guidance,) = torch.autograd.grad(signal, x, pull)
    return seen.velocity.detach() + at.sigma * at.wronskian / at.alpha * guidance
