r"""A first-order optimizer driven from outside: one step per gradient that the caller has.

    p = optimizer's direction for g,    x ← x − rate · p

`Optimizer.minimize` owns its loop, its stopping rules and its best point. A method that has a loop
of its own (a control of every sampling step, a kernel learned on the way) only wants the step.
"""

from __future__ import annotations

from torch import Tensor

from ctrlgen.optimizers.first_order import FirstOrder
from ctrlgen.rows.batching import flat

__all__ = ["Stepwise"]


class Stepwise:
    """The running averages of one first-order optimizer for B rows, from zero on.

    Args:
        optimizer: Adam or gradient descent; its stopping rules play no part here.
        like: a tensor of the unknowns' shape (B, *), dtype and device.

    Raises:
        ValueError: if the learning rate is a schedule: the caller has a rate for every step.
    """

    def __init__(self, optimizer: FirstOrder, like: Tensor) -> None:
        if callable(optimizer.learning_rate):
            raise ValueError("optimizer: expected a number as learning_rate, got a schedule")
        self.optimizer, self.rate = optimizer, float(optimizer.learning_rate)
        like = flat(like)
        self._averages = like.new_zeros(optimizer.moments, *like.shape)
        self._weights = like.new_zeros(optimizer.moments, len(like), 1)
        self._one = like.new_ones(len(like), 1)

    def __call__(self, x: Tensor, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """x after one step, shape of x.

        Args:
            x: unknowns, shape (B, *).
            gradient: of each row's own value, shape of x.
            scale: factor of the learning rate.
        """
        rule = self.optimizer
        g = rule._clip(flat(gradient))
        self._averages = rule.update_averages(self._averages, g)
        self._weights = rule.update_averages(self._weights, self._one)
        direction = rule.direction(self._averages, self._weights)
        return x - scale * self.rate * direction.reshape(x.shape)
