r"""What a sample is judged by: against the truth where it is known, else by what can be known.

    psnr        20 log₁₀(R/RMS(x − x*)) in dB
    residual    √(‖Hx − y‖²/m)/σ, which is 1 where the residual is the noise
    misfit      ‖Hx − y‖²/(2σ²d), nats per number of the signal
    likelihood  log p(x)/d by the prior (`ctrlgen.priors.likelihood`), one Hutchinson probe
    posterior   likelihood − misfit: log p(x|y)/d up to what all methods share

Where σ = 0, a residual of 1 % of the range of y counts as met and stands for the noise. The
likelihood needs a codec that knows its change of volume, and LIKELIHOOD evaluations of the network
with as many backward passes; these are the judge's, not the method's. High likelihood alone is no
quality, since the likeliest signals of a prior are smooth; with the misfit it is what is known.

d and the mean over entries count the numbers that a signal has, not the padding of its batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ctrlgen.comparison.posed import Posed
from ctrlgen.operators.base import Operator
from ctrlgen.priors.likelihood import log_likelihood
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, flat
from ctrlgen.rows.errors import short
from ctrlgen.runs.job import Metric

__all__ = ["LIKELIHOOD", "NAMED", "Criterion", "criterion", "judges", "present", "tolerance"]

NAMED = ("psnr", "posterior", "residual")
"""Criteria by name; a function of signals and true signals is one too."""

_STEPS = 10
LIKELIHOOD = 2 * _STEPS
"""Evaluations of the network for the likelihood of a sample."""

_FLOOR = 1e-12
_MET = 0.01


def present(prior: Prior, x: Tensor) -> Tensor:
    """Which numbers of signals x (B, *) there are, padding being none: bool, shape of x.

    Args:
        prior: of these samples.
        x: signals, of whatever values.
    """
    state = x.new_zeros(()).expand(len(x), *prior.source.shape)
    return prior.codec.present(x, prior.source.present(state))


class Judge(PerSample, ABC):
    """A value per sample; a metric of a run."""

    unit: str | None = None
    better: str | None = None

    @abstractmethod
    def __call__(self, signals: Tensor) -> Any:
        """Values (b,) of signals (b, *)."""


class Psnr(Judge):
    """Against the truth, in dB, over the numbers that there are; `peak` is R, 2 for [−1, 1]."""

    per_sample = ("truth", "there")
    unit, better = "dB", "higher"

    def __init__(self, truth: Tensor, there: Tensor, peak: float = 2.0) -> None:
        self.truth, self.there, self.peak = truth, there, peak

    def __call__(self, signals: Tensor) -> Tensor:
        there = flat(self.there.to(signals.device))
        rest = flat(signals.double() - self.truth.to(signals).double())
        mse = torch.where(there, rest, 0).square().sum(1) / there.sum(1)
        return 20 * math.log10(self.peak) - 10 * torch.log10(mse + _FLOOR)


class Own(Judge):
    """A user's function of signals, and of true signals where there are any."""

    per_sample = ("truth",)

    def __init__(self, function: Callable[..., Any], truth: Tensor | None) -> None:
        self.function, self.truth = function, truth
        self.unit = getattr(function, "unit", None)
        self.better = getattr(function, "better", "higher")

    def __call__(self, signals: Tensor) -> Any:
        if self.truth is None:
            return self.function(signals)
        return self.function(signals, self.truth.to(signals))


class Residual(Judge):
    """‖Hx − y‖ in units of the noise."""

    per_sample: tuple[str, ...] = ("operator", "y")

    def __init__(self, operator: Operator, y: Tensor, sigma: float) -> None:
        self.operator, self.y, self.sigma = operator, y, sigma

    def square(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        """‖Hx − y‖² and the number of its entries, both (B,)."""
        seen = self.operator(signals)
        rest = self.operator.observed(seen - self.y.to(seen))
        return flat(rest).double().square().sum(1), self.operator.measured(rest)

    def __call__(self, signals: Tensor) -> Tensor:
        total, entries = self.square(signals)
        return (total / entries).sqrt() / self.sigma


class Misfit(Residual):
    """‖Hx − y‖²/(2σ²d)."""

    per_sample = ("operator", "y", "prior")
    unit, better = "nats per number", "lower"

    def __init__(self, operator: Operator, y: Tensor, sigma: float, prior: Prior) -> None:
        super().__init__(operator, y, sigma)
        self.prior = prior

    def __call__(self, signals: Tensor) -> Tensor:
        total, _ = self.square(signals)
        return total / (2 * self.sigma**2 * flat(present(self.prior, signals)).sum(1))


class Likelihood(Judge):
    """log p(x)/d, the probes of every sample's own seed."""

    per_sample = ("prior", "seeds")
    unit, better = "nats per number", "higher"

    def __init__(self, prior: Prior, seeds: Tensor) -> None:
        self.prior, self.seeds = prior, seeds

    def __call__(self, signals: Tensor) -> Tensor:
        x = signals.to(self.prior.device)
        value = log_likelihood(self.prior, x, self.prior.solver(_STEPS), seeds=self.seeds)
        return value.to(signals.device) / flat(present(self.prior, signals)).sum(1)


@dataclass(frozen=True)
class Criterion:
    """What methods are ranked by.

    Attributes:
        name: of it.
        unit: of its values.
        better: "higher" or "lower".
        digits: of a mean, after the point.
        likelihood: whether it takes the prior's.
        function: a user's own.
    """

    name: str
    unit: str | None = None
    better: Literal["higher", "lower"] = "higher"
    digits: int = 1
    likelihood: bool = False
    function: Callable[..., Any] | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, else −1."""
        return 1 if self.better == "higher" else -1

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """Of a sample, from its record; None where it is no number."""
        if self.name == "posterior":
            parts = metrics.get("likelihood"), metrics.get("misfit")
            return None if None in parts else float(parts[0]) - float(parts[1])  # type: ignore[arg-type]
        if self.name == "residual":  # how many dB it lies beside the noise
            share = metrics.get("residual")
            return None if share is None else abs(20 * math.log10(max(share, _FLOOR)))
        value = metrics.get(self.name)
        return float(value) if isinstance(value, int | float) else None


def tolerance(problem: Posed) -> float:
    """σ, or what stands for it where there is no noise."""
    if problem.sigma > 0:
        return problem.sigma
    y = problem.operator.observed(problem.y)
    return max(_MET * float(y.max() - y.min()), _FLOOR)


def criterion(metric: str | Callable[..., Any] | None, problem: Posed, prior: Prior) -> Criterion:
    """The criterion that is asked for; by default the best that can be had.

    Args:
        metric: one of `NAMED`; a function of signals (b, *), and true signals where they are known,
            to values (b,), whose attributes `unit` and `better` count; None for PSNR where there
            are true signals, else the posterior, else the residual.
        problem: what is solved.
        prior: whose likelihood may be asked for.

    Raises:
        TypeError: for a metric of another kind.
        ValueError: for an unknown one, PSNR without true signals, or a likelihood that the codec
            does not allow.
    """
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__).strip("<>")
        better = getattr(metric, "better", "higher")
        if better not in ("higher", "lower"):
            raise ValueError(f"metric: better: expected 'higher' or 'lower', got {better!r}")
        unit = getattr(metric, "unit", None)
        return Criterion(name, unit, "lower" if better == "lower" else "higher", 3, False, metric)
    if metric is not None and not isinstance(metric, str):
        raise TypeError(f"metric: expected a name or a function, got {short(metric)}")
    if metric is not None and metric not in NAMED:
        raise ValueError(f"metric: expected one of {', '.join(NAMED)}, got {metric!r}")
    if metric == "psnr" and problem.truth is None:
        raise ValueError(
            "metric: psnr needs the true signals, and the problem has none (truth=...); without "
            "it, posterior and residual judge by what can be known"
        )
    if metric == "psnr" or (metric is None and problem.truth is not None):
        return Criterion("psnr", "dB")
    if metric == "residual" or (metric is None and not _has_likelihood(prior)):
        return Criterion("residual", "dB beside the noise", "lower")
    if not _has_likelihood(prior):
        raise ValueError(
            f"metric: posterior needs a likelihood, and the codec {type(prior.codec).__name__} "
            "does not know its change of volume"
        )
    return Criterion("posterior", "nats per number", "higher", 3, True)


def _has_likelihood(prior: Prior) -> bool:
    try:
        prior.codec.log_scale(torch.zeros(1, *prior.source.shape, device=prior.device))
    except NotImplementedError:
        return False
    return True


def judges(
    asked: Criterion, problem: Posed, prior: Prior, seeds: list[int], sigma: float
) -> dict[str, Metric]:
    """The metrics of a run.

    Args:
        asked: what is ranked by.
        problem: one row per sample.
        prior: of these samples.
        seeds: theirs.
        sigma: of the noise, or what stands for it, one for all runs that are compared
            (`tolerance`).
    """
    made: dict[str, Metric] = {}
    if asked.function is not None:
        made[asked.name] = Own(asked.function, problem.truth)
    if problem.truth is not None:
        made["psnr"] = Psnr(problem.truth, present(prior, problem.truth))
    made["residual"] = Residual(problem.operator, problem.y, sigma)
    if asked.likelihood:
        made["misfit"] = Misfit(problem.operator, problem.y, sigma, prior)
        made["likelihood"] = Likelihood(prior, torch.tensor(seeds))
    return made
