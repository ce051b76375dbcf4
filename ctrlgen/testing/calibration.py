r"""Whether a method draws from the posterior, asked where the posterior is known.

    law = gaussian(m, S)
    report = calibrate(method, prior=law, operator=Matrix(H), noise=0.5, cost=SquaredError)
    print(report.table())

*Moments.* All samples share one measurement y. With the exact posterior's mean m and covariance C,
and the samples' own ones in its measure, o = C^{-1/2}(m̂ − m) and Ŵ = C^{-1/2} Ĉ C^{-1/2},

    bias       √(‖o‖²/d)                        in posterior standard deviations
    spread     √(‖Ŵ − I‖_F²/d)                  0 is right, 1 what a single point has
    distance   √((‖o‖² + ‖Ŵ^{1/2} − I‖_F²)/d)   of Wasserstein between the two Gaussians

*Ranks and intervals.* Many truths are drawn and measured, and a few samples made of each; ranks of
the truth among them, their p-value and the coverage of central intervals (`ctrlgen.testing.ranks`).

The moments are also computed for draws of the exact posterior: what is left there is chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, Method
from ctrlgen.operators.base import Operator, measure
from ctrlgen.priors.codecs import Identity
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.batching import flat, rows_of
from ctrlgen.rows.checks import check_kind
from ctrlgen.testing.oracles import Mixture, MixtureNetwork
from ctrlgen.testing.posteriors import Weighted, posterior
from ctrlgen.testing.ranks import coverage, nominal, p_values, ranks

__all__ = ["Calibration", "Moments", "Ranked", "calibrate", "moments", "ranked"]

LEVELS = (0.5, 0.9)
"""Of the central intervals whose coverage is counted."""

_TRUTHS = 2**24
"""Seeds of truths begin here."""

_DRAWS = 2**16
"""Seeds of the samples begin here."""

_COORDINATES = 8
"""Coordinates of a signal whose ranks are taken, spread evenly over it."""

Pose = Callable[[Operator, Tensor, float], CostLike]


@dataclass(frozen=True)
class Moments:
    """How far samples of one measurement are from the posterior; see the module."""

    bias: float
    spread: float
    distance: float


@dataclass(frozen=True)
class Ranked:
    """What the ranks of many truths say.

    Attributes:
        p_values: by function of the signal.
        coverage: by the stated probability of a central interval, the share of truths in it,
            over coordinates.
    """

    p_values: dict[str, float]
    coverage: dict[float, float]

    @property
    def p_value(self) -> float:
        """Of the least likely function, corrected for their number (Bonferroni)."""
        return min(1.0, len(self.p_values) * min(self.p_values.values()))


@dataclass(frozen=True)
class Calibration:
    """The outcome of `calibrate`.

    Attributes:
        method: and its settings, as text.
        moments: of the samples of one measurement.
        chance: the moments of as many draws of the exact posterior.
        ranked: of the truths among their samples.
        ends: how many samples ended how, in words.
        evaluations: of the network per sample, median.
        backward_passes: of the network per sample, median.
        samples: the samples of one measurement, shape (samples, *shape).
        exact: the posterior of that measurement.
    """

    method: str
    moments: Moments
    chance: Moments
    ranked: Ranked
    ends: dict[str, int]
    evaluations: int
    backward_passes: int
    samples: Tensor = field(repr=False)
    exact: Mixture | Weighted = field(repr=False)

    @property
    def p_value(self) -> float:
        """How likely ranks as uneven as these are, were the samples of the posterior."""
        return self.ranked.p_value

    def table(self) -> str:
        """One line for the method, one for draws of the exact posterior."""
        stated = self.ranked.coverage
        spent = [str(self.evaluations), str(self.backward_passes)]
        lines = [["", "bias", "spread", "distance"], [self.method.split("(")[0]], ["the posterior"]]
        lines[0] += [*(f"in {level:.0%}" for level in stated), "p", "evaluations", "backward"]
        for line, close in zip(lines[1:], (self.moments, self.chance), strict=True):
            line += [f"{value:.3f}" for value in (close.bias, close.spread, close.distance)]
        lines[1] += [*(f"{share:.1%}" for share in stated.values()), f"{self.p_value:.2g}", *spent]
        lines[2] += [*(f"{level:.1%}" for level in stated), "", "", ""]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        )


def calibrate(
    method: Method,
    *,
    prior: Mixture | Prior,
    operator: Operator,
    noise: float,
    cost: Pose,
    samples: int = 1000,
    measurements: int = 200,
    draws: int = 19,
) -> Calibration:
    """Compare what a method draws with the exact posterior.

    Args:
        method: called as `method(prior, cost, seeds=...)`; its `dtype` is that of the states.
        prior: an oracle, in float64, or the `Prior` of one on another path.
        operator: H, shared by all samples; where it is not linear, the prior must be of few
            dimensions (`ctrlgen.testing.posteriors`).
        noise: σ_y > 0.
        cost: builds the cost of measurements, `cost(operator, y, noise)`: `SquaredError`, or
            `lambda *m: 0.5 / m[2]**2 * SquaredError(*m)` for a method that wants −log p(y|x).
        samples: of one measurement, >= 2.
        measurements: truths whose ranks are taken, >= 50.
        draws: samples of each of them; a multiple of 10 less 1.

    Raises:
        TypeError: if a part is of another kind.
        ValueError: if the prior is no oracle, the operator holds data of single samples, or a
            number does not fit.
    """
    check_kind(Operator, operator=operator)
    if rows_of(operator) is not None:
        raise ValueError(f"operator: expected one that all samples share, got {operator}")
    if samples < 2 or measurements < 50 or draws < 9 or (draws + 1) % 10:
        raise ValueError(
            "samples, measurements, draws: expected at least 2, at least 50 and a multiple of 10 "
            f"less 1, got {samples}, {measurements}, {draws}"
        )
    dtype = getattr(method, "dtype", torch.float32)
    law, prior = _oracle(prior, dtype)
    places = range(_TRUTHS, _TRUTHS + measurements)
    truths = law.sample(places)
    y = measure(operator, truths, noise, places)
    exact = posterior(law, operator, y[0], noise)

    # One batch serves both: rows do not see each other.
    of_one = y[:1].expand(samples, *y.shape[1:])
    every = torch.cat((of_one, y.repeat_interleave(draws, 0)))
    posed = cost(operator, every.to(dtype), noise)
    result = method(prior, posed, seeds=range(_DRAWS, _DRAWS + len(every)))
    x, rest = result.samples.double().split((samples, len(every) - samples))
    one = result.take(torch.arange(samples))
    functions = Functions(law, operator)
    return Calibration(
        method=result.method or type(method).__name__,
        moments=moments(x, exact),
        chance=moments(exact.sample(range(_TRUTHS, _TRUTHS + samples)), exact),
        ranked=ranked(functions(truths, y), functions(rest, y.repeat_interleave(draws, 0))),
        ends=one.counts(),
        evaluations=int(one.evaluations.double().median()),
        backward_passes=int(one.backward_passes.double().median()),
        samples=x,
        exact=exact,
    )


def moments(samples: Tensor, exact: Mixture | Weighted) -> Moments:
    """The errors of samples (B, *shape) of one measurement, in the measure of its posterior.

    They are infinite where a sample is.
    """
    x = flat(samples).to(exact.mean)
    values, vectors = torch.linalg.eigh(exact.covariance)
    white = (x - exact.mean) @ vectors / values.sqrt()
    if not bool(white.isfinite().all()):
        return Moments(math.inf, math.inf, math.inf)
    offset, eye = white.mean(0), torch.eye(len(values), dtype=x.dtype, device=x.device)
    spread = torch.cov(white.mT).reshape(eye.shape)
    own, axes = torch.linalg.eigh(spread)
    root = (axes * own.clamp_min(0).sqrt()) @ axes.mT
    bias = offset.square().sum()
    return Moments(
        bias=math.sqrt(bias / len(eye)),
        spread=math.sqrt((spread - eye).square().sum() / len(eye)),
        distance=math.sqrt((bias + (root - eye).square().sum()) / len(eye)),
    )


def ranked(truths: dict[str, Tensor], samples: dict[str, Tensor]) -> Ranked:
    """What the ranks of truths among their samples say.

    Args:
        truths: by name, a function of every truth, shape (N,).
        samples: the same functions of the samples, shape (N · L,), L in a row of the same truth.
            Coverage is that of the names in brackets, coordinates such as "x[3]"; of all, where
            there is none.
    """
    names = list(truths)
    one = torch.stack([truths[name] for name in names], 1)
    many = torch.stack([samples[name] for name in names], 1).reshape(len(one), -1, len(names))
    draws = many.shape[1]
    rank = ranks(one, many)
    p = p_values(rank, draws, min(10, draws + 1))
    intervals = [i for i, name in enumerate(names) if "[" in name] or list(range(len(names)))
    return Ranked(
        p_values=dict(zip(names, p.tolist(), strict=True)),
        coverage={
            nominal(level, draws)[1]: float(coverage(rank[:, intervals], draws, level).mean())
            for level in LEVELS
        },
    )


class Functions:
    """Functions of a signal and its measurement whose ranks are taken, by name.

    Some coordinates, the density of the prior and the misfit of the measurement: a posterior that
    is right in each coordinate alone shows its faults in the latter two (Modrák et al., arXiv
    2211.02383).

    Args:
        law: the prior.
        operator: H.
    """

    def __init__(self, law: Mixture, operator: Operator) -> None:
        self.law, self.operator = law, operator

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Of signals x (B, *shape) measured as y (B, *measurement): shape (B,) each."""
        vectors = flat(x)
        d = vectors.shape[1]
        places = torch.linspace(0, d - 1, min(d, _COORDINATES)).round().int().tolist()
        functions = {f"x[{i}]": vectors[:, i] for i in places}
        functions["log p(x)"] = self.law.log_prob(vectors)
        with torch.no_grad():
            functions["|H(x) - y|"] = flat(self.operator(x) - y).norm(dim=1)
        return functions


def _oracle(prior: Mixture | Prior, dtype: torch.dtype) -> tuple[Mixture, Prior]:
    """The law in float64 and its prior in the dtype of a method."""
    if isinstance(prior, Mixture):
        return prior.to(torch.float64), Prior(prior.to(dtype).flow(), Gaussian(prior.shape))
    check_kind(Prior, prior=prior)
    network = prior.flow.network
    if not isinstance(network, MixtureNetwork) or not isinstance(prior.codec, Identity):
        raise ValueError(f"prior: expected an oracle of ctrlgen.testing, got {prior}")
    return network.mixture.to(torch.float64), prior.to(dtype=dtype)
