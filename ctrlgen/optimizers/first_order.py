"""Gradient descent and Adam, per sample.

    gradient descent    p = g,                            optionally with heavy-ball momentum:
                        m <- mu m + g, p = m
    Adam                m <- b1 m + (1 - b1) g,           v <- b2 v + (1 - b2) g^2
                        p = m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps)

and x <- x - lr(k) p at the row's own iteration k = 1, 2, ... (Polyak, 1964; Kingma & Ba, Adam,
ICLR 2015, Algorithm 1). Clipping rescales each row's gradient to a largest norm of its own.

Every trial point becomes the next iterate, whether or not it is lower; the best one is kept
apart. Only a point whose value or gradient is not finite is refused: the row tries again from
where it was with a tenth of the step, up to ten times, and then ends with DIVERGED.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Objective, Observer, Optimizer, Projection, Solution
from ctrlgen.optimizers.workingset import WorkingSet
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.status import Status

__all__ = ["Adam", "GradientDescent"]

_SHRINKS = 10
"""How often a step that leads to a point that is not finite is tried at a tenth of its length."""


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Optimizer):
    """Base of the methods that step along a running average of gradients.

    Args:
        learning_rate: step size > 0, or a schedule: a function of the number of completed
            iterations of each row, shape (b,) in the dtype of x, to step sizes of shape (b,).
        clip_norm: largest Euclidean norm of a row's gradient, > 0; None does not clip.
        change_tolerance: 0 by default, since one small change of a method that may also climb
            says nothing about convergence.

    The other stopping rules are those of `Optimizer`. A restart empties the averages.
    """

    learning_rate: float | Callable[[Tensor], Tensor] = 1e-2
    clip_norm: float | None = None
    change_tolerance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.learning_rate) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: expected a positive number, got {self.clip_norm}")

    moments: ClassVar[int]
    """How many running averages the method keeps."""

    @abstractmethod
    def update_averages(self, averages: Tensor, gradient: Tensor) -> Tensor:
        """The averages (moments, b, d) after one more gradient (b, d)."""

    @abstractmethod
    def direction(self, averages: Tensor, weights: Tensor) -> Tensor:
        """The step at unit learning rate, (b, d).

        Args:
            averages: of the gradients so far, shape (moments, b, d).
            weights: what the same averages would be of gradients all one, (moments, b, 1).
        """

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
        averages = work.at.x.new_zeros(self.moments, *work.at.x.shape)
        weights, one = torch.zeros_like(averages[..., :1]), torch.ones_like(work.at.x[:, :1])
        damping = torch.ones_like(work.at.value)
        fresh = torch.ones_like(work.returning)
        while work.active:
            gradient = self._clip(work.at.gradient)
            averages = torch.where(
                fresh[:, None], self.update_averages(averages, gradient), averages
            )
            weights = torch.where(fresh[:, None], self.update_averages(weights, one), weights)
            rate = damping * self._rate(work.clock, work.at.value)
            trial = work.at.x - rate[:, None] * self.direction(averages, weights)
            new = work.evaluate(trial, project=work.due if projection is not None else None)

            accepted = new.finite & ~work.returning
            damping = torch.where(accepted, 1, 0.1 * damping)
            lost = (damping < 0.5 * 0.1**_SHRINKS) & ~work.returning
            failure = torch.where(lost, int(Status.DIVERGED), int(Status.RUNNING))
            round = work.close(accepted, new, failure)
            if round.kept is not None:
                averages, weights = averages[:, round.kept], weights[:, round.kept]
                damping, one = damping[round.kept], one[round.kept]
            fresh = round.fresh
            averages = averages.masked_fill(round.restarted[:, None], 0)
            weights = weights.masked_fill(round.restarted[:, None], 0)
            damping = damping.masked_fill(round.restarted, 1)
        return work.solution()

    def _clip(self, gradient: Tensor) -> Tensor:
        if self.clip_norm is None:
            return gradient
        norm = row_sum(gradient.square()).sqrt()
        return gradient * (self.clip_norm / norm).clamp_max(1)[:, None]

    def _rate(self, clock: Tensor, like: Tensor) -> Tensor:
        if not callable(self.learning_rate):
            return torch.full_like(like, self.learning_rate)
        rate = torch.as_tensor(self.learning_rate(clock.to(like)))
        if rate.shape not in ((), like.shape):
            raise ValueError(
                f"learning_rate must return a step size per row, shape {(*like.shape,)}, "
                f"got shape {(*rate.shape,)}"
            )
        return rate.to(like)


@dataclass(frozen=True, kw_only=True)
class GradientDescent(FirstOrder):
    """Per-sample gradient descent, optionally with heavy-ball momentum.

    Args:
        momentum: mu in [0, 1).
    """

    momentum: float = 0.0
    moments: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {self.momentum}")

    def update_averages(self, averages: Tensor, gradient: Tensor) -> Tensor:
        return self.momentum * averages + gradient

    def direction(self, averages: Tensor, weights: Tensor) -> Tensor:
        return averages[0]


@dataclass(frozen=True, kw_only=True)
class Adam(FirstOrder):
    """Per-sample Adam.

    Args:
        betas: decay of the averages of the gradient and of its square, each in [0, 1).
        epsilon: added to the root of the second average, > 0.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    moments: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, tuple | list):
            raise TypeError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {self.betas}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon: expected a positive number, got {self.epsilon}")

    def update_averages(self, averages: Tensor, gradient: Tensor) -> Tensor:
        powers = gradient, gradient.square()
        parts = zip(self.betas, averages, powers, strict=True)
        return torch.stack([beta * old + (1 - beta) * new for beta, old, new in parts])

    def direction(self, averages: Tensor, weights: Tensor) -> Tensor:
        mean, square = averages / weights
        return mean / (square.sqrt() + self.epsilon)
