r"""Inverse problems: what was measured, how, with what noise, and what is true where it is known.

    y = H(x) + σ_y n,      n ~ N(0, I)

One class for a measurement from a file, for a batch of an experiment and for a user's own. A method
takes its cost in the form that it declares (`Method.cost_form`):

    "psnr"      −PSNR of the measurement, in dB: of what is optimised to a target, and of methods
                that read the measurement alone
    "squared"   ‖Hx − y‖²: of methods that weigh the cost against something else

A blur may be compared where its pseudo-inverse lives, H†Hx with H†y (D-Flow, arXiv 2402.14017,
Table 6). Of a file in bytes the rounding is part of the noise, σ² = σ_y² + σ_rounding².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from ctrlgen.costs.measurement import MeasurementCost, NegativePSNR, SquaredError
from ctrlgen.methods.base import Method
from ctrlgen.methods.result import Result
from ctrlgen.methods.tuned import METHODS, Case, build
from ctrlgen.operators.base import LinearOperator, Operator, measure
from ctrlgen.optimizers import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import take
from ctrlgen.rows.seeds import Seeds

__all__ = ["Comparison", "InverseProblem", "psnr_of", "solve"]

Comparison = Literal["measurement", "pseudo-inverse"]


@dataclass(frozen=True)
class InverseProblem:
    """Measurements of some signals, one per sample, or one that all samples share.

    Attributes:
        operator: H.
        y: measurements, shape (B, *measurement); B = 1 is shared by any number of samples.
        noise: σ_y as stated, in the units of y, >= 0.
        truth: the true signals, shape (B, *signal), where they are known.
        compare: where −PSNR is taken: "measurement", Hx with y, or "pseudo-inverse", H†Hx with H†y.
        rounding: standard deviation of the rounding of a file.

    Raises:
        TypeError: for an operator or measurements of another kind.
        ValueError: for measurements that are not finite, negative noise, another number of true
            signals than of measurements, or an unknown comparison.
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0
    truth: Tensor | None = None
    compare: Comparison = "measurement"
    rounding: float = 0.0

    def __post_init__(self) -> None:
        SquaredError(self.operator, self.y, self.noise)  # checks what they share
        if self.truth is not None and len(self.truth) != len(self.y):
            raise ValueError(
                f"truth: expected {len(self.y)} signals, one per measurement, got {len(self.truth)}"
            )
        if self.compare not in get_args(Comparison):
            raise ValueError(
                f"compare: expected one of {get_args(Comparison)}, got {self.compare!r}"
            )

    @classmethod
    def of(
        cls,
        operator: Operator,
        truth: Tensor,
        noise: float = 0.0,
        seeds: Seeds | Sequence[int] | None = None,
        **more: Any,
    ) -> Self:
        """The problem whose answer is known: signals are measured, with the noise of their seeds.

        Args:
            operator: H.
            truth: signals, shape (B, *signal).
            noise: σ_y in the units of the measurement.
            seeds: one per signal; needed where there is noise.
            **more: other fields.
        """
        y = measure(operator, truth, noise, seeds)
        return cls(operator=operator, y=y, noise=noise, truth=truth, **more)

    def take(self, index: Tensor) -> Self:
        """Some of the problems, shape (b,); one of them as often as it is named."""
        return replace(
            self,
            operator=self.operator.take(index),
            y=take(self.y, index),
            truth=take(self.truth, index),
        )

    @property
    def sigma(self) -> float:
        """σ, with the rounding."""
        return math.hypot(self.noise, self.rounding)

    @property
    def gain(self) -> float:
        """Of the comparison on white noise: √(Σ s⁻²/d), s the singular values, for H†y."""
        if self.compare == "measurement":
            return 1.0
        assert isinstance(self.operator, LinearOperator)
        s = self.operator.spectrum(self.operator.pinv(self.y)).values
        return float(torch.where(s > 0, s**-2.0, 0).mean().sqrt())

    @property
    def case(self) -> Case:
        """What settings of methods depend on."""
        return Case(self.operator, self.noise, self.gain * self.sigma)

    def method(self, name: str = "d-flow", **options: Any) -> Method:
        """A method set for this problem.

        Args:
            name: as `ctrlgen methods` lists it.
            **options: `evaluations`, `init`, `iterations`, `target` (a PSNR in dB) and `device` of
                `ctrlgen.methods.tuned.build`.

        Raises:
            UnknownName: for a name that is not known.
            ValueError: for a problem that the method cannot do, or an option that it has not.
        """
        made = build(name, self.case, **options)
        self.cost(made)  # refuses a comparison that is not the method's
        return made

    def cost(self, method: Method, rows: int | None = None) -> MeasurementCost:
        """The cost in the form that a method declares.

        Args:
            method: that will minimise it.
            rows: of the batch, where the samples share one measurement.

        Raises:
            ValueError: for "pseudo-inverse" with a method that does not descend −PSNR to a target,
                or for rows that are not those of y.
        """
        y = self.y
        if rows is not None and rows != len(y):
            if len(y) != 1:
                raise ValueError(f"seeds: expected {len(y)}, one per measurement, got {rows}")
            y = y.expand(rows, *y.shape[1:])
        if self.compare == "pseudo-inverse":
            if not hasattr(method, "target"):
                able = ", ".join(
                    name for name, entry in METHODS.items() if "target" in entry.options
                )
                raise ValueError(
                    f"compare: 'pseudo-inverse' is for {able}, got {type(method).__name__}"
                )
            return NegativePSNR(self.operator, y, self.sigma, projected=True)
        kind = SquaredError if method.cost_form == "squared" else NegativePSNR
        return kind(self.operator, y, self.sigma)


def psnr_of(cost: MeasurementCost, values: Tensor) -> Tensor:
    """PSNR of what a cost of a problem compares, in dB, from its values (..., B)."""
    if isinstance(cost, NegativePSNR):
        return -values
    mse = values / cost.operator.measured(cost.y).to(values)
    return 20 * math.log10(2) - 10 * torch.log10(mse + 1e-12)


def solve(
    prior: Prior,
    problem: InverseProblem,
    method: str | Method = "d-flow",
    *,
    seeds: Seeds | Sequence[int] | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> Result:
    """Samples of the prior that explain a measurement.

    Args:
        prior: see `ctrlgen.load`; bound to conditions of as many rows as there are samples.
        problem: with one measurement per sample, or one that all share.
        method: name of `ctrlgen methods`, whose settings are those of the command line, or a
            method with settings of your own.
        seeds: one per sample; 0, 1, ... one per measurement by default.
        observer: receives an event per round.
        **options: of a method that is named: `evaluations` of the network per sample, `init`,
            `iterations`, and `target`, the PSNR of the measurement in dB at which a sample stops.

    Returns:
        One entry per seed; nothing is left out.

    Raises:
        TypeError: where the problem is none.
        ValueError: for options of another method, or seeds that are not one per measurement.
    """
    if not isinstance(problem, InverseProblem):
        raise TypeError(
            f"problem: expected an InverseProblem, got {type(problem).__name__}; a cost of another "
            "kind is for a method of your own settings: DFlow(...)(prior, cost, seeds=...)"
        )
    if isinstance(method, Method):
        if options:
            raise ValueError(f"{next(iter(options))}: is for a method by name; set it in {method}")
        chosen = method
    else:
        chosen = problem.method(method, **options)
    every = range(len(problem.y)) if seeds is None else seeds
    return chosen(prior, problem.cost(chosen, len(every)), seeds=every, observer=observer)
