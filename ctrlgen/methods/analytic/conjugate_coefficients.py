r"""Coefficients of the conjugate integrators: a guided ODE whose linear part is solved exactly.

Pandey, Yang and Mandt, "Fast Samplers for Inverse Problems in Iterative Refinement Models", arXiv
2405.17673, here on any affine path. With p(x_1|x_t) taken as N(x̂, r²I), r² = σ²/(α²+σ²), and
guidance of weight w r²α², the conditional ODE  ẋ = u + wσWα (∂x̂/∂x)^T R,  R = g (H†y − x̂), is in
the right singular basis of H, one singular value s at a time, with

    g = r²s²/(r²s² + σ_y²)      (1 on the range of H^T and 0 on the null space, where σ_y = 0):

    noise form      ẋ = (α̇/α − c) x + wσWg p + (wσ²W g − W)/α ε̂ − wσ²W q,      c = wg σW/α
    velocity form   ẋ = −c x − wασσ̇ g p + (1 + wασ²σ̇ g/W) u + wασ² q,           c = wg ασσ̇²/W

with p = H†y and q = J^T R, J the Jacobian of the prediction (ε̂ or u). The linear part goes into
x̄ = A x, Ȧ = A(λ' − linear part); λ' is λ in the velocity form and −λ in the noise form, where the
paper's λ is on the clock τ = 1 − t. An Euler step of x̄ from t to t', written for x itself, is

    x' = a x + m p + e n + j q,
    a = (1 + λ'δ) A(t)/A(t'),        m, e, j = ∫_t^{t'} (their rates) A(s)/A(t') ds.

Only ratios of A appear, formed from logarithms: μ^{w−1} itself overflows. In the noise form
d(αA) = A dy-rate and d(σA) = A dε-rate at λ = 0 on every path, whence, by parts,

    m = α' − αa_0 + λ∫αA/A' ds,     e = σ' − σa_0 + λ∫σA/A' ds,     a_0 = A(t)/A(t'):

no 1/σ remains, and λ = 0 is in closed form as soon as ∫c is. On a path with α² + σ² = 1,

    ∫c = ½w [G(B) − G(B')],     B = −2 ln α,
    G = s²/(s²+σ_y²) B − σ_y²/(s²+σ_y²) ln(1 + s²σ²/σ_y²),

which without noise is w ln(α'/α). Everything else is an 8-point Gauss-Legendre rule in float64 on
panels that are finer towards the data.

The released code treats noise otherwise (`released_steps`): on the range A becomes
Ā = A + κ₃/s², κ₃ = ½w (A − 1) σ_y² ln(σ²/α²), in all rates, and its inverse 1/A − κ₃/(s²A²); the
gain g stays 1. As that is no inverse, it matters what is carried: x̄, with x = Ā^{-1}x̄ for the
network, at the first step too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ctrlgen.priors.paths import Coefficients, Path
from ctrlgen.sampling.grids import Level

__all__ = ["Form", "ReleasedSteps", "StepCoefficients", "conjugate_steps", "released_steps"]

Form = Literal["noise", "velocity"]

_PANELS, _NODES = 6, 8
_CHUNK = 16384  # singular values at a time


class StepCoefficients(NamedTuple):
    """x' = state · x + measured · H†y + network · n + jacobian · q, in the singular basis.

    Every field has the shape of the singular values, or of (steps, values) for a whole grid.
    """

    state: Tensor
    measured: Tensor
    network: Tensor
    jacobian: Tensor

    def at(self, step: int) -> StepCoefficients:
        """The coefficients of one step."""
        return StepCoefficients(*(part[step] for part in self))


class ReleasedSteps(NamedTuple):
    """x̄' = state · x̄ + measured · H†y + network · n + jacobian · q, as the released code.

    Attributes:
        first: Ā at the first level, of the shape of the singular values.
        inverses: the approximate inverse at all levels, (n + 1, *values).
        steps: of x̄, (n, *values) each.
    """

    first: Tensor
    inverses: Tensor
    steps: StepCoefficients


def released_steps(
    path: Path,
    levels: Sequence[Level],
    values: Tensor,
    noise: float,
    weight: float,
    decay: float,
) -> ReleasedSteps:
    """The released treatment of a noisy measurement; arguments as of `conjugate_steps`.

    Raises:
        ValueError: for a path without α² + σ² = 1.
    """
    flat = values.detach().double().flatten().cpu()  # once, for all the small steps below
    s, places = torch.unique(flat, return_inverse=True)
    pairs = [
        _Interval(path, t, end, s, noise, weight).released(decay) for t, end in pairwise(levels)
    ]
    before, after, rows = zip(*pairs, strict=True)

    def table(parts: Sequence[Tensor]) -> Tensor:
        made = torch.stack(list(parts))[:, places].reshape(len(parts), *values.shape)
        return made.to(values.device)

    steps = StepCoefficients(*(table(field) for field in zip(*rows, strict=True)))
    inverses = table([before[0][1], *(inverse for _, inverse in after)])
    return ReleasedSteps(table([before[0][0]])[0], inverses, steps)


def conjugate_steps(
    form: Form,
    path: Path,
    levels: Sequence[Level],
    values: Tensor,
    noise: float,
    weight: float,
    decay: float,
) -> StepCoefficients:
    """The coefficients of every step of a grid, in float64, shape (n, *values).

    Args:
        form: "noise" (the network's ε̂, for diffusions) or "velocity" (its u, for flows).
        path: of the clock on which the prior is read.
        levels: n + 1 levels of the grid, noisy to clean; σ > 0 and α > 0 at all but the last.
        values: singular values s of the operator, any shape; 0 on its null space.
        noise: σ_y, in the units of the measurement.
        weight: w.
        decay: λ.
    """
    flat = values.detach().double().flatten().cpu()  # once, for all the small steps below
    s, places = torch.unique(flat, return_inverse=True)  # channels and symmetries repeat them
    rows = []
    for t, end in pairwise(levels):
        parts = [
            _Interval(path, t, end, chunk, noise, weight).step(form, decay)
            for chunk in s.split(_CHUNK)
        ]
        rows.append([torch.cat(field) for field in zip(*parts, strict=True)])
    tables = (torch.stack(field)[:, places] for field in zip(*rows, strict=True))
    shape = (len(rows), *values.shape)
    return StepCoefficients(*(table.reshape(shape).to(values.device) for table in tables))


class _Interval:
    """One step of a grid, with the nodes of its quadrature; tensors are (values, nodes)."""

    def __init__(
        self, path: Path, t: Level, end: Level, s: Tensor, noise: float, weight: float
    ) -> None:
        self.t, self.end, self.weight, self.noise = t, end, weight, noise
        self.s = s.unsqueeze(1)
        self.width = end.time - t.time
        nodes, self.measure = _graded()
        self.before = self.width * nodes  # t' − s at the nodes, largest first
        self.at: Coefficients = path(end.time - self.before)
        level = self.at.alpha**2 + self.at.sigma**2
        self.normalised = bool((level - 1).abs().max() < 1e-9)
        self.gain = self._gain(self.at.sigma**2 / level)

    def _gain(self, r2: Tensor) -> Tensor:
        """g at posterior variances r², one where there is no noise and s > 0."""
        power = r2 * self.s**2
        total = power + self.noise**2
        return torch.where(self.s > 0, power / torch.where(total > 0, total, 1), 0)

    def step(self, form: Form, decay: float) -> StepCoefficients:
        return self._noise(decay) if form == "noise" else self._velocity(decay)

    def _noise(self, decay: float) -> StepCoefficients:
        at, w, t, end = self.at, self.weight, self.t, self.end
        if self.normalised:
            here = 0.5 * w * (self._closed(at.alpha) - self._closed(self._number(end.alpha)))
            first = (
                0.5
                * w
                * (self._closed(self._number(t.alpha)) - self._closed(self._number(end.alpha)))
            )
        else:
            here, first = self._inner(w * self.gain * at.sigma * at.wronskian / at.alpha)
        ratio = torch.exp(-at.alpha.log() - here + decay * self.before) * end.alpha
        state = torch.exp(-first + decay * self.width) * (end.alpha / t.alpha)
        measured = end.alpha - t.alpha * state
        network = end.sigma - t.sigma * state
        if decay:
            measured = measured + decay * self._integral(at.alpha * ratio)
            network = network + decay * self._integral(at.sigma * ratio)
        return StepCoefficients(
            ((1 - decay * self.width) * state).squeeze(1),
            torch.where(self.s > 0, measured, 0).squeeze(1),
            network.squeeze(1),
            -w * self._integral(at.sigma**2 * at.wronskian * ratio).squeeze(1),
        )

    def _velocity(self, decay: float) -> StepCoefficients:
        at, w, g = self.at, self.weight, self.gain
        pull = w * at.alpha * at.sigma * at.d_sigma
        here, first = self._inner(pull * at.d_sigma * g / at.wronskian)
        ratio = torch.exp(-here - decay * self.before)
        state = torch.exp(-first - decay * self.width)
        network = self._integral((1 + pull * at.sigma * g / at.wronskian) * ratio)
        return StepCoefficients(
            ((1 + decay * self.width) * state).squeeze(1),
            self._integral(-pull * g * ratio).squeeze(1),
            network.squeeze(1),
            w * self._integral(at.alpha * at.sigma**2 * ratio).squeeze(1),
        )

    def released(
        self, decay: float
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], StepCoefficients]:
        """Ā and its approximate inverse at both ends, and the coefficients of x̄."""
        if not self.normalised:
            raise ValueError("clock: the released treatment of noise needs one with α² + σ² = 1")
        at, w, t, end = self.at, self.weight, self.t, self.end
        seen = self.s > 0

        def both(alpha: Tensor, sigma: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            """Ā and the approximate inverse."""
            plain = torch.exp(decay * (1 - time)) * torch.where(seen, alpha ** (w - 1), 1 / alpha)
            kappa = 0.5 * w * (plain - 1) * self.noise**2 * 2 * (sigma.log() - alpha.log())
            extra = torch.where(seen, kappa / torch.where(seen, self.s**2, 1), 0)
            return plain + extra, 1 / plain - extra / plain**2

        inside, _ = both(at.alpha, at.sigma, end.time - self.before)
        ends = [both(*map(self._number, (v.alpha, v.sigma, v.time))) for v in (t, end)]
        before, after = ((a.squeeze(1), b.squeeze(1)) for a, b in ends)
        guided = seen * w * at.sigma * at.wronskian * inside
        network = guided * at.sigma / at.alpha - at.wronskian / at.alpha * inside
        jacobian = -w * at.sigma**2 * at.wronskian * inside
        parts = [self._integral(rate).squeeze(1) for rate in (guided, network, jacobian)]
        state = torch.full_like(parts[0], 1 - decay * self.width)
        return before, after, StepCoefficients(state, *parts)

    def _closed(self, alpha: Tensor) -> Tensor:
        """G where α² + σ² = 1; (values, times)."""
        b, sigma2 = -2 * alpha.log(), (1 - alpha**2).clamp_min(0)
        if self.noise == 0:
            return (self.s > 0) * b
        power, n2 = self.s**2, self.noise**2
        return (power * b - n2 * torch.log1p(power * sigma2 / n2)) / (power + n2)

    def _number(self, value: float) -> Tensor:
        return self.s.new_tensor([value])

    def _integral(self, rate: Tensor) -> Tensor:
        """∫ rate over the step, shape (values, 1)."""
        full = rate.expand(len(self.s), -1)
        return self.width * (full * self.measure).sum(1, keepdim=True)

    def _inner(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """∫ rate from every node to the end, and over the whole step."""
        full = rate.expand(len(self.s), -1)
        panels = (full * self.measure).unflatten(1, (_PANELS, _NODES))
        after = panels.sum(2).flip(1).cumsum(1).flip(1)
        weights, tails = _legendre()[1], _tails()
        within = (panels / weights) @ tails.T
        later = torch.cat((after[:, 1:], after.new_zeros(len(after), 1)), 1)
        here = (within + later.unsqueeze(2)).flatten(1)
        return self.width * here, self.width * after[:, :1]


@cache
def _legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1], from the Jacobi matrix."""
    k = torch.arange(1, _NODES, dtype=torch.float64, device="cpu")
    side = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return (values + 1) / 2, vectors[0] ** 2


@cache
def _tails() -> Tensor:
    """T with ∫_{x_i}^1 f = Σ_j T_ij f(x_j), for polynomials up to the degree of the nodes."""
    nodes, _ = _legendre()
    powers = torch.arange(_NODES, dtype=torch.float64, device="cpu")
    vandermonde = nodes.unsqueeze(1) ** powers
    tails = (1 - nodes.unsqueeze(1) ** (powers + 1)) / (powers + 1)
    return torch.linalg.solve(vandermonde.T, tails.T).T


@cache
def _graded() -> tuple[Tensor, Tensor]:
    """Distances from the end in [0, 1], decreasing, and weights: panels in the square root."""
    nodes, weights = _legendre()
    edges = torch.linspace(1, 0, _PANELS + 1, dtype=torch.float64, device="cpu") ** 2
    length = (edges[:-1] - edges[1:]).unsqueeze(1)
    return (edges[:-1].unsqueeze(1) - length * nodes).flatten(), (length * weights).flatten()
