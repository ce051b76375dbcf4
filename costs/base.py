r"""Costs: what a sample should be like, one number per sample, and how costs combine.

A cost maps signals (B, *) to values (B,), low where the wish is met. Costs form an algebra,

    C = w_1 C_1 + w_2 C_2 − C_3 / w_3,   (w C)(x) = w · C(x),   C.through(codec)(z) = C(decode(z)),

each again a cost with the same promises: one value per sample, no sample sees another, and
`take` restricts the data it holds to the samples still at work. A plain function that holds no
per-sample data is a cost as it is wherever a method asks for one; `FunctionCost` gives it data.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ctrlgen.operators.base import Measurement
from ctrlgen.priors.codecs import Codec
from ctrlgen.rows.batching import Batched, PerSample, rows_like
from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import CostError

__all__ = ["Cost", "FunctionCost", "ScaledCost", "SumCost", "ThroughCodec", "as_cost"]

Weight = float | Tensor
Squares = Literal["sum", "rising", "no"]


class Cost(PerSample, ABC):
    """Base of all costs: implement `forward`, and name per-sample data in `per_sample`.

    `cost(signal)` calls `forward` and checks its promise of one value per sample; a `CostError`
    says where it is broken.
    """

    @property
    def measurement(self) -> Measurement | None:
        """The inverse problem behind the cost, for methods that use its operator; None if none."""
        return None

    @property
    def differentiable(self) -> bool:
        """Whether it has a gradient; a sum has none where one of its parts has none."""
        return True

    @property
    def squares(self) -> Squares:
        """How the cost is made of residuals: "sum", it is ‖r(x)‖² (but for a constant); "rising",
        a rising function of it; "no" where it has none. Gauss-Newton asks."""
        return "no"

    def least_squares(self, x: Tensor) -> Tensor:
        """The residuals r(x) of signals x (B, *), shape (B, m), differentiable in x.

        Raises:
            NotImplementedError: where `squares` is "no".
        """
        raise NotImplementedError(f"{self} is no sum of squares")

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Values (B,) of the signals x (B, *), differentiable in x."""

    def __call__(self, x: Tensor) -> Tensor:
        value = self.forward(x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CostError(
                f"{self}: expected one value per sample, shape {tuple(x.shape[:1])}, "
                f"got {got}; reduce over every dimension but the first"
            )
        return value

    def __add__(self, other: Cost | Callable[[Tensor], Tensor]) -> Cost:
        return SumCost(self, as_cost(other))

    def __radd__(self, other: Callable[[Tensor], Tensor] | int) -> Cost:
        # sum([...]) starts from the integer 0
        return self if other == 0 else as_cost(other) + self

    def __mul__(self, weight: Weight) -> Cost:
        return ScaledCost(self, weight)

    __rmul__ = __mul__

    def __truediv__(self, weight: Weight) -> Cost:
        if isinstance(weight, Tensor):
            return ScaledCost(self, weight.reciprocal())
        if not isinstance(weight, float | int):
            raise TypeError(f"weight: expected a number or a tensor, got {type(weight).__name__}")
        if weight == 0:
            raise ValueError("weight: a cost cannot be divided by 0")
        return ScaledCost(self, 1 / weight)

    def __neg__(self) -> Cost:
        return ScaledCost(self, -1.0)

    def __sub__(self, other: Cost | Callable[[Tensor], Tensor]) -> Cost:
        return self + -as_cost(other)

    def __rsub__(self, other: Callable[[Tensor], Tensor]) -> Cost:
        return as_cost(other) + -self

    def through(self, codec: Codec) -> Cost:
        """The same cost of the signal that a codec decodes: x ↦ self(codec.decode(x))."""
        return ThroughCodec(self, codec)

    def __repr__(self) -> str:
        return type(self).__name__


class SumCost(Cost):
    """The sum of two costs."""

    per_sample = ("left", "right")

    def __init__(self, left: Cost, right: Cost) -> None:
        self.left, self.right = left, right

    @property
    def measurement(self) -> Measurement | None:
        return self.left.measurement or self.right.measurement

    @property
    def differentiable(self) -> bool:
        return self.left.differentiable and self.right.differentiable

    @property
    def squares(self) -> Squares:
        return "sum" if self.left.squares == self.right.squares == "sum" else "no"

    def least_squares(self, x: Tensor) -> Tensor:
        return torch.cat((self.left.least_squares(x), self.right.least_squares(x)), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)

    def __repr__(self) -> str:
        return f"{self.left} + {self.right}"


class ScaledCost(Cost):
    """A cost times a weight, one for all samples or one per sample, shape (B,)."""

    def __init__(self, cost: Cost, weight: Weight) -> None:
        if not isinstance(weight, float | int | Tensor):
            raise TypeError(f"weight: expected a number or a tensor, got {type(weight).__name__}")
        number = torch.as_tensor(weight)
        if number.ndim > 1 or not bool(torch.isfinite(number).all()):
            raise ValueError(f"weight: expected a finite number or shape (B,), got {weight!r}")
        self.cost, self.weight = cost, weight
        self._positive = bool((number > 0).all())
        self.per_sample = ("cost", "weight") if number.ndim == 1 else ("cost",)

    @property
    def measurement(self) -> Measurement | None:
        return self.cost.measurement

    @property
    def differentiable(self) -> bool:
        return self.cost.differentiable

    @property
    def squares(self) -> Squares:
        return self.cost.squares if self._positive else "no"

    def least_squares(self, x: Tensor) -> Tensor:
        residual = self.cost.least_squares(x)
        if self.squares == "rising":  # the weight is outside of the function that rises
            return residual
        return rows_like(self.weight, residual).sqrt() * residual

    def forward(self, x: Tensor) -> Tensor:
        value = self.cost(x)
        weight = rows_like(self.weight, value)
        if weight.ndim and len(weight) != len(value):
            raise ValueError(f"weight: expected shape ({len(value)},), got {tuple(weight.shape)}")
        return weight * value

    def __repr__(self) -> str:
        weight = self.weight if isinstance(self.weight, float | int) else "w"
        return f"{weight}·({self.cost})"


class ThroughCodec(Cost):
    """A cost of decoded states."""

    per_sample = ("cost", "codec")

    def __init__(self, cost: Cost, codec: Codec) -> None:
        self.cost, self.codec = cost, codec

    @property
    def differentiable(self) -> bool:
        return self.cost.differentiable

    @property
    def squares(self) -> Squares:
        return self.cost.squares

    def least_squares(self, x: Tensor) -> Tensor:
        return self.cost.least_squares(self.codec.decode(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.cost(self.codec.decode(x))

    def __repr__(self) -> str:
        return f"{self.cost} through {type(self.codec).__name__}"


class FunctionCost(Cost):
    """A cost from a function `fn(x, **data) -> (B,)`.

    Args:
        fn: differentiable function of signals x (B, *), and of the per-sample data by name.
        per_sample: data with one row per sample, handed to `fn` as keyword arguments.
        name: how messages call it; the function's own name by default.
    """

    per_sample = ("data",)

    def __init__(
        self,
        fn: Callable[..., Tensor],
        per_sample: Mapping[str, Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn: expected a function of the signal, got {type(fn).__name__}")
        for key, value in (per_sample or {}).items():
            if not isinstance(value, Tensor | Batched | Mapping):
                raise TypeError(
                    f"per_sample: {key}: expected a tensor, or what has take(index), "
                    f"got {type(value).__name__}"
                )
            if isinstance(value, Tensor) and value.ndim == 0:
                raise ValueError(f"per_sample: {key}: expected one row per sample, got a scalar")
        self.fn, self.data = fn, dict(per_sample or {})
        self.name = str(name or getattr(fn, "__name__", type(fn).__name__))

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, **{key: _beside(value, x) for key, value in self.data.items()})

    def __repr__(self) -> str:
        return self.name


def _beside(value: Any, x: Tensor) -> Any:
    """Data of samples where the signal is, in their own dtype."""
    return follow(value, x, value.dtype) if isinstance(value, Tensor) else value


def as_cost(value: object) -> Cost:
    """A cost as it is, or a plain function made one.

    Raises:
        TypeError: for anything that cannot be called with a signal.
    """
    if isinstance(value, Cost):
        return value
    if inspect.isclass(value) or not callable(value):
        raise TypeError(f"cost: expected a Cost or a function of the signal, got {value!r}")
    return FunctionCost(value)
