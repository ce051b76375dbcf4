r"""What methods of the source point minimise: C(Φ(x_0)) + R(x_0), and its residuals.

A cost that is a sum of squares, ‖r(x)‖², or a rising function of one, brings r to the optimizers
that ask for it; with the Gaussian penalty λ‖x_0‖²/2 the residuals are (r, √(λ/2) x_0).

A rising function of ‖r‖² has the minimisers of ‖r‖² itself, which is the better one to descend:
near a solution it is a quadratic with the Gauss-Newton Hessian, while −PSNR, its logarithm, bends
down along its own gradient, ∇² log f = ∇²f/f − ∇f∇fᵀ/f², and no quadratic model holds for long.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows
from ctrlgen.methods.regularizers import GaussianNLL, Regularizer, TargetNLL
from ctrlgen.optimizers.base import Evaluated
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.likelihood import Augmented, probes
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat, row_sum, take
from ctrlgen.solvers import Solver

__all__ = ["SourceObjective", "check_squares"]


def check_squares(name: str, remedy: str, cost: CostLike, regularizer: Regularizer | None) -> None:
    """Raise ValueError where a cost and a regularizer are no sum of squares, as `name` needs.

    The message ends with the remedy for others.
    """
    squares = getattr(cost, "squares", "no")
    if squares == "no":
        raise ValueError(
            f"cost: {name} needs a sum of squares, such as SquaredError, NegativePSNR, "
            f"PropertyCost or LevelSet, got {cost}; use {remedy} for other costs"
        )
    if regularizer is not None and not (isinstance(regularizer, GaussianNLL) and squares == "sum"):
        raise ValueError(
            f"regularizer: {name} needs a sum of squares, got {cost} with {regularizer}; use "
            f"GaussianNLL with SquaredError, or None, or {remedy}"
        )


class SourceObjective:
    """C(Φ(x_0)) + R(x_0), with the cost to monitor and the signal carried along.

    x_0 is projected onto the source's subspace first: an optimiser that scales entries one by one,
    as Adam does, would leave it.

    Attributes:
        with_residual: whether evaluations bring the residuals r of a cost ‖r‖²; of λ‖x_0‖²/2 they
            are √(λ/2) x_0.
        of_squares: whether the value is ‖r‖² in place of the cost, which is monitored either way.
    """

    with_residual = False
    of_squares = False

    def __init__(
        self,
        prior: Prior,
        cost: CostLike,
        solver: Solver,
        regularizer: Regularizer | None,
        seeds: Tensor,
        like: Tensor,
    ) -> None:
        self.prior, self.cost, self.solver, self.regularizer = prior, cost, solver, regularizer
        self.v: Tensor | None = None
        if isinstance(regularizer, TargetNLL) and regularizer.probes is not None:
            self.v = probes(seeds, like.shape[1:], regularizer.probes, like)

    def take(self, index: Tensor) -> SourceObjective:
        taken = copy.copy(self)
        taken.prior, taken.cost = self.prior.take(index), cost_rows(self.cost, index)
        taken.regularizer, taken.v = take(self.regularizer, index), take(self.v, index)
        return taken

    def residuals(self, x0: Tensor) -> Tensor:
        """r at x_0 (b, *), shape (b, m), where evaluations bring it."""
        residual = self(x0).residual
        assert residual is not None  # `with_residual` is set
        return residual

    def __call__(self, x0: Tensor) -> Evaluated:
        x0 = self.prior.source.project(x0)
        velocity = BoundVelocity(self.prior)
        divergence = None
        if self.regularizer is not None and self.regularizer.needs_divergence:
            augmented = Augmented(velocity, self.prior.source, self.v)
            state, divergence = augmented.solve(self.solver, x0, 0.0, 1.0)
        else:
            state = self.solver(velocity, x0)
        signal = self.prior.codec.decode(state)
        cost = self.cost(signal)
        value = cost
        if self.regularizer is not None:
            value = cost + self.regularizer(x0, self.prior.source, divergence)
        residual = None
        if self.with_residual or self.of_squares:
            residual = self.cost.least_squares(signal)  # type: ignore[attr-defined]
            if self.regularizer is not None:
                residual = torch.cat((residual, (self.regularizer.weight / 2) ** 0.5 * flat(x0)), 1)
        if self.of_squares:
            assert residual is not None
            value = row_sum(residual.square())
        return Evaluated(value, cost, signal, residual if self.with_residual else None)
