r"""Several costs as one, by the worst of them: the augmented Chebyshev scalarisation.

    C(x) = max_k w_k (c_k(x) − r_k) + ρ Σ_k w_k (c_k(x) − r_k)

(Bowman 1976; Wierzbicki 1980: r is the reference that is to be achieved, and C is negative beyond
it). Whatever the shape of the front, each of its points is the minimum for some weights, which no
weighted sum can say of a front that is not convex; the small ρ > 0 keeps off points that another
one beats in one cost at no loss. Weights of one row per sample send every sample of a batch to a
part of the front of its own (`pareto.directions`).

The maximum has a kink where two costs are equal, which is where most minima lie, and line searches
dislike it. With τ > 0 it is smooth (Lin et al., arXiv 2402.19078), and larger by τ log K at most:

    max_k u_k  →  τ log Σ_k exp(u_k/τ)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, as_cost
from ctrlgen.costs.property import PropertyCost
from ctrlgen.rows.constants import follow

__all__ = ["ChebyshevCost", "scalarised"]

CostLike = Cost | Callable[[Tensor], Tensor]


def scalarised(
    values: Tensor, weights: Tensor, reference: Tensor, rho: float = 0.01, smoothing: float = 0.0
) -> Tensor:
    """The scalarisation of costs that are known, shape (*,).

    Args:
        values: c, shape (*, K).
        weights: w, to broadcast against it.
        reference: r, likewise.
        rho: ρ >= 0.
        smoothing: τ >= 0.
    """
    own = weights * (values - reference)
    top = own.amax(-1) if not smoothing else smoothing * (own / smoothing).logsumexp(-1)
    return top + rho * own.sum(-1)


class ChebyshevCost(Cost):
    """The worst of several weighted costs.

    Args:
        costs: K costs, in a sequence or by name; or a `PropertyCost` of K properties, whose terms
            are the costs, with one evaluation of its network for all.
        weights: w >= 0, not all zero: shape (K,), or one row per sample, shape (B, K).
        reference: r: a number, shape (K,), or one row per sample, shape (B, K).
        rho: ρ >= 0.
        smoothing: τ >= 0, in the unit of the weighted costs; 0 for the maximum itself.

    Raises:
        TypeError: costs that are none.
        ValueError: fewer than two costs, shapes that do not fit, weights that are negative, not
            finite or all zero, or numbers out of their range.
    """

    def __init__(
        self,
        costs: Sequence[CostLike] | Mapping[str, CostLike] | PropertyCost,
        weights: Tensor | Sequence[float],
        reference: Tensor | Sequence[float] | float = 0.0,
        *,
        rho: float = 0.01,
        smoothing: float = 0.0,
    ) -> None:
        self.costs: PropertyCost | dict[str, Cost]
        if isinstance(costs, PropertyCost):
            self.costs, number = costs, costs.properties
        elif isinstance(costs, Sequence | Mapping):
            named = costs if isinstance(costs, Mapping) else dict(enumerate(costs))
            self.costs = {str(name): as_cost(cost) for name, cost in named.items()}
            number = len(self.costs)
        else:
            raise TypeError(f"costs: expected a sequence of costs, got {type(costs).__name__}")
        if number < 2:
            raise ValueError(f"costs: expected at least 2, got {number}")
        self.weights = _table("weights", weights, number)
        if bool((self.weights < 0).any()) or bool((self.weights.sum(-1) == 0).any()):
            raise ValueError(f"weights: expected numbers >= 0, not all zero, got {weights}")
        self.reference = _table("reference", reference, number)
        for name, value in (("rho", rho), ("smoothing", smoothing)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a number >= 0, got {value}")
        self.rho, self.smoothing = rho, smoothing
        own = [name for name in ("weights", "reference") if getattr(self, name).ndim == 2]
        self.per_sample = ("costs", *own)

    @property
    def differentiable(self) -> bool:
        if isinstance(self.costs, PropertyCost):
            return self.costs.differentiable
        return all(cost.differentiable for cost in self.costs.values())

    def terms(self, x: Tensor) -> Tensor:
        """The costs c_k of signals x (B, *), shape (B, K)."""
        if isinstance(self.costs, PropertyCost):
            return self.costs.terms(x)
        return torch.stack([cost(x) for cost in self.costs.values()], 1)

    def forward(self, x: Tensor) -> Tensor:
        values = self.terms(x)
        weights, reference = follow(self.weights, values), follow(self.reference, values)
        return scalarised(values, weights, reference, self.rho, self.smoothing)

    def __repr__(self) -> str:
        parts = [self.costs] if isinstance(self.costs, PropertyCost) else self.costs.values()
        return f"ChebyshevCost({', '.join(map(repr, parts))})"


def _table(name: str, value: Tensor | Sequence[float] | float, number: int) -> Tensor:
    """Numbers as float64, shape (K,) or (B, K)."""
    made = torch.as_tensor(value, dtype=torch.float64).detach()
    made = made.repeat(number) if made.ndim == 0 else made
    if made.ndim > 2 or made.shape[-1] != number or not bool(made.isfinite().all()):
        raise ValueError(
            f"{name}: expected {number} finite numbers, or shape (B, {number}), got {value}"
        )
    return made
