"""What every method shares: the call, and the checks that come before any compute.

    method(prior, cost, seeds=...) -> Result

A cost is anything that maps signals (B, *) to one value per sample; data of single samples are
taken along through `take` (`ctrlgen.batching`). Before the network is evaluated once, the cost is
tried on signals decoded from the source, so that a scalar, a missing gradient, or data that do not
fit are found at once.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.batching import rows_of, take
from ctrlgen.errors import CostError
from ctrlgen.operators import Measurement
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors import Prior
from ctrlgen.results import Result
from ctrlgen.seeds import Seeds

__all__ = ["CostLike", "Method", "cost_rows", "measurement_of", "try_cost"]

CostLike = Callable[[Tensor], Tensor]


class Method(ABC):
    """An algorithm from prior and cost to result.

    Attributes:
        control: what it optimises or steers, in a few words; `ctrlgen methods` shows both.
        needs: what it asks of the cost beside one value per sample.
    """

    control: ClassVar[str]
    needs: ClassVar[str]

    @abstractmethod
    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Steer the prior to low cost, one sample per seed.

        Args:
            prior: bound to as many rows of conditions as there are seeds, or to none.
            cost: signals to values (B,); a `ctrlgen.costs.Cost` or a function.
            seeds: one per sample; the same seed gives the same result in any batch.
            observer: receives an event per round.

        Raises:
            CostError: if the cost breaks its contract.
            ValueError: if numbers of rows disagree.
        """


def cost_rows(cost: CostLike, index: Tensor) -> CostLike:
    """The cost of the samples `index`; a plain function holds no data of samples."""
    return take(cost, index) if hasattr(cost, "take") else cost


def measurement_of(cost: CostLike) -> Measurement | None:
    """The inverse problem behind a cost, if it has one."""
    return getattr(cost, "measurement", None)


def try_cost(prior: Prior, cost: CostLike, x0: Tensor) -> None:
    """Evaluate the cost once on decoded source points and check its contract.

    Args:
        prior: whose codec decodes; its network is not evaluated.
        cost: the cost of all samples.
        x0: source points of all samples, shape (B, *).

    Raises:
        TypeError: if the cost cannot be called.
        CostError: if it holds another number of samples, or does not return one differentiable,
            floating point value per sample.
    """
    if not callable(cost) or inspect.isclass(cost):
        raise TypeError(f"cost: expected a Cost or a function of the signal, got {cost!r}")
    held = rows_of(cost)
    if held is not None and held != len(x0):
        raise CostError(f"cost: holds data of {held} samples, expected {len(x0)}, one per seed")
    with torch.enable_grad():
        state = x0.detach().requires_grad_()
        value = cost(prior.codec.decode(state))
        if not isinstance(value, Tensor) or value.shape != x0.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CostError(
                f"cost: expected one value per sample, shape {tuple(x0.shape[:1])}, got {got}"
            )
        if not value.is_floating_point():
            raise CostError(f"cost: expected floating point values, got {value.dtype}")
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), state, allow_unused=True)
        if gradient is None:
            raise CostError(
                "cost: has no gradient with respect to the signal; it must be computed from the "
                "signal by differentiable torch operations"
            )
