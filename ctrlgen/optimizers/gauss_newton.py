r"""Per-sample batched Gauss-Newton: B independent non-linear least-squares problems in one batch.

    minimise ‖r(x)‖² by steps p that lower the model  m(p) = ‖r + Jp‖²,   J = ∂r/∂x,

inside a trust region ‖p‖ <= Δ of each row. The model is lowered by conjugate gradients on its
normal equations (CGLS; Björck, Numerical Methods for Least Squares Problems, 1996, Algorithm
7.4.1), which ask for no more than products: Jᵀw is a vjp, and Jv the derivative of w ↦ Jᵀw,
another pass through the graph of the first. From p = 0 the iterates p_0, p_1, ... stay in the
range of Jᵀ, so that the step of a row with more unknowns than residuals is the shortest one, and
grow in length while they lower m (Steihaug, SIAM J. Numer. Anal. 20, 1983, Theorem 2.1). The step
is the point of this broken line at length Δ, its end at most. A step that does not lower ‖r‖²
shrinks Δ, and the next trial lies on the same line: it costs an evaluation of r and no product.

    ρ = (‖r‖² − ‖r(x+p)‖²) / (‖r‖² − m(p)):   ρ < 1/4 shrinks Δ to ‖p‖/4, ρ > 3/4 at Δ doubles it

(Nocedal & Wright, Numerical Optimization, 2nd ed. 2006, Algorithm 4.1). Where r is affine and there
are as many inner iterations as J has distinct singular values, one step is the solution.

Rows are at points of their own, as in all optimizers here: a row that has moved gets a new line,
by products of these rows alone, while its neighbours go on along theirs. Each line takes the same
number of products, so that no row pays for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Objective, Observer, Optimizer, Projection, Solution
from ctrlgen.optimizers.linesearch import rounding_of
from ctrlgen.optimizers.workingset import WorkingSet
from ctrlgen.rows.batching import flat, partition, row_sum
from ctrlgen.rows.status import Status

__all__ = ["GaussNewton"]

_SHRINKS = 10
"""How often a step to a point that is not finite is tried again, at a quarter of its length."""

_ACCEPTED = 1e-4
"""Least share of the foretold decrease with which a step is taken."""


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Optimizer):
    """Per-sample Gauss-Newton with conjugate gradients in a trust region; for sums of squares.

    The objective has to bring its residual, and to be twice differentiable by autograd: a solver
    that differentiates by "adjoint" is not. An iteration costs, beside an evaluation of value and
    gradient per trial, one evaluation and `2 * inner` backward passes.

    Args:
        inner: iterations of conjugate gradients per step, >= 1.
        radius: first Δ, Euclidean length of a step, > 0; None for no bound on the first one.

    The stopping rules are those of `Optimizer`; a row ends with LINE_SEARCH where no step along
    its line lowers the value.
    """

    needs_residual: ClassVar[bool] = True

    inner: int = 8
    radius: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner < 1:
            raise ValueError(f"inner: expected at least 1, got {self.inner}")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius: expected a positive number, got {self.radius}")

    def minimize(
        self,
        objective: Objective,
        x0: Tensor,
        *,
        target: float | Tensor | None = None,
        observer: Observer | None = None,
        projection: Projection | None = None,
    ) -> Solution:
        work = WorkingSet(
            self, objective, x0, target=target, observer=observer, projection=projection
        )
        if work.at.residual is None:
            raise ValueError(
                "objective: GaussNewton needs Evaluated.residual, as ResidualObjective brings it; "
                "use LBFGS for other objectives"
            )
        first = torch.inf if self.radius is None else self.radius
        radius = torch.full_like(work.at.value, first)
        shrinks = torch.zeros_like(work.rows)
        line = Line.still(work.at.x, work.at.residual, self.inner)
        fresh, starting = torch.ones_like(work.returning), work.active

        while work.active:
            if starting:
                line = self._aim(fresh, starting, line, work)
            assert work.at.residual is not None
            step = line.at(radius, work.at.residual)
            new = work.evaluate(work.at.x + step.move)
            assert new.residual is not None

            before, after = row_sum(work.at.residual.square()), row_sum(new.residual.square())
            foretold, rounding = before - step.value, rounding_of(before)
            ratio = (before - after) / foretold
            # A decrease that rounding hides is no reason to refuse a step.
            fair = (ratio >= _ACCEPTED) | ((foretold <= rounding) & (after - before <= rounding))
            accepted = new.finite & fair & ~work.returning
            refused = ~accepted & ~work.returning
            radius = torch.where(refused | (accepted & (ratio < 0.25)), step.length / 4, radius)
            radius = torch.where(accepted & (ratio > 0.75) & step.cut, 2 * radius, radius)
            shrinks = torch.where(refused & ~new.finite, shrinks + 1, 0)
            resolution = torch.finfo(x0.dtype).eps * torch.linalg.vector_norm(work.at.x, dim=1)
            short = refused & (radius <= resolution)
            failure = torch.where(short, int(Status.LINE_SEARCH), int(Status.RUNNING))
            failure = failure.masked_fill(refused & (shrinks >= _SHRINKS), Status.DIVERGED)

            round = work.close(accepted, new, failure)
            if round.kept is not None:
                radius, shrinks = radius[round.kept], shrinks[round.kept]
                line = line.take(round.kept)
            radius = radius.masked_fill(round.restarted, first)
            fresh, starting = round.fresh, round.starting
        return work.solution()

    def _aim(self, fresh: Tensor, starting: int, line: Line, work: WorkingSet) -> Line:
        """Give the `fresh` rows, so many, a new line."""
        if starting == work.active:
            return self._line(work.objective, work)
        where, _ = partition(fresh, starting)
        new = self._line(work.objective.take(where), work, where)
        return Line(*(old.index_copy(1, where, part) for old, part in zip(line, new, strict=True)))

    def _line(self, objective: Objective, work: WorkingSet, where: Tensor | None = None) -> Line:
        """Conjugate gradients at the iterates of some rows."""
        at = work.at if where is None else work.at.take(where)
        assert at.residual is not None
        x = at.x.reshape(-1, *work.shape[1:]).requires_grad_()
        with torch.enable_grad():
            residual = objective.residuals(x).to(x.dtype)  # type: ignore[attr-defined]
            w = torch.zeros_like(residual, requires_grad=True)
            (pulled,) = torch.autograd.grad(residual, x, w, create_graph=True)

        def pull(v: Tensor) -> Tensor:  # J^T v
            return flat(torch.autograd.grad(residual, x, v, retain_graph=True)[0])

        def push(v: Tensor) -> Tensor:  # J v
            return torch.autograd.grad(pulled, w, v.reshape(x.shape), retain_graph=True)[0]

        rest = -at.residual
        slope = direction = -at.gradient
        move, image = torch.zeros_like(at.x), torch.zeros_like(rest)
        moves, images = [move], [image]
        square = row_sum(slope.square())
        for k in range(self.inner):
            pushed = push(direction)
            curvature = row_sum(pushed.square())
            if k == 0:
                # The gradient of the value is J^T r times a positive number: make it one.
                scale = row_sum(rest * pushed) / torch.where(square > 0, square, 1)
                slope = direction = scale[:, None] * direction
                pushed, curvature = scale[:, None] * pushed, scale.square() * curvature
                square = scale.square() * square
            length = torch.where(
                curvature > 0, square / torch.where(curvature > 0, curvature, 1), 0
            )
            move = move + length[:, None] * direction
            image = image + length[:, None] * pushed
            moves.append(move)
            images.append(image)
            if k + 1 < self.inner:
                rest = rest - length[:, None] * pushed
                slope, before = pull(rest), square
                square = row_sum(slope.square())
                ratio = torch.where(before > 0, square / torch.where(before > 0, before, 1), 0)
                direction = slope + ratio[:, None] * direction
        return Line(torch.stack(moves), torch.stack(images))


class Step(NamedTuple):
    """A point of a line per row.

    Attributes:
        move: p, shape (b, d).
        length: ‖p‖, shape (b,).
        value: m(p), shape (b,).
        cut: whether the trust region ends it before the line does, shape (b,).
    """

    move: Tensor
    length: Tensor
    value: Tensor
    cut: Tensor


class Line(NamedTuple):
    """The broken line through the iterates of conjugate gradients.

    Attributes:
        moves: p_0 = 0, p_1, ..., shape (k + 1, b, d).
        images: J p_0, J p_1, ..., shape (k + 1, b, m).
    """

    moves: Tensor
    images: Tensor

    @classmethod
    def still(cls, x: Tensor, residual: Tensor, inner: int) -> Line:
        """Lines that lead nowhere, for rows at x (b, d) with residuals (b, m)."""
        return cls(x.new_zeros(inner + 1, *x.shape), residual.new_zeros(inner + 1, *residual.shape))

    def take(self, index: Tensor) -> Line:
        """The lines of the rows `index`."""
        return Line(self.moves[:, index], self.images[:, index])

    def at(self, radius: Tensor, residual: Tensor) -> Step:
        """The point at distance Δ from the start of each line, or its end.

        Args:
            radius: Δ, shape (b,).
            residual: r at the start, shape (b, m).
        """
        lengths = torch.linalg.vector_norm(self.moves, dim=2)
        count, rows = len(lengths), torch.arange(lengths.shape[1], device=lengths.device)
        last = (lengths <= radius).cummin(0).values.sum(0) - 1  # the latest iterate inside
        after = (last + 1).clamp_max(count - 1)
        start, end = self.moves[last, rows], self.moves[after, rows]
        # ‖start + s (end − start)‖ = Δ
        way = end - start
        a, b = row_sum(way.square()), row_sum(start * way)
        c = radius.square() - lengths[last, rows].square()
        cut = (last < count - 1) & (a > 0)
        root = (b.square() + a * c).clamp_min(0).sqrt()
        share = torch.where(cut, (c / (b + root)).clamp(0, 1), 0)[:, None]
        move = start + share * way
        image = torch.lerp(self.images[last, rows], self.images[after, rows], share)
        value = row_sum((residual + image).square())
        return Step(move, torch.linalg.vector_norm(move, dim=1), value, cut)
