r"""Affine Gaussian paths: the clocks and noise levels on which flows and diffusions run.

    x_t = α_t x_1 + σ_t x_0,    t = 0: source noise x_0,    t = 1: data x_1.

Everything a sampler needs follows from α, σ and their time derivatives (a dot):

    a = σ̇/σ,   b = α̇ − α σ̇/σ,   W = α̇σ − ασ̇ = σ b  (Wronskian),
    snr = α²/σ²,   γ = ½ d(snr)/dt = αW/σ³,

so that the velocity reads u = a x + b x̂ with x̂ = E[x_1 | x_t] (Lipman et al., arXiv 2210.02747;
Ben-Hamu et al., arXiv 2402.14017, eqs 12 and 41). Diffusion schedules are paths too: any state
(α, σ) is a rescaling of the state of every other path at the same signal-to-noise ratio, which
`time_at` finds; so one network serves all clocks (`Flow.on`).

    CondOT      α = t,            σ = 1 − t
    Cosine      α = sin(πt/2),    σ = cos(πt/2)
    VP          α = e^{−B/2},     σ = √(1−e^{−B}),   B = β_min τ + ½τ²(β_max − β_min),  τ: 1 → ε
    DiscreteVP  α = √ᾱ_i,         σ = √(1−ᾱ_i),      tabulated, log-SNR interpolated in the index
    EDM         α = 1/√(1+s²),    σ = s/√(1+s²),     s from σ_max to σ_min (Karras et al. 2022)

The last is the variance-exploding state x_1 + s x_0 divided by √(1+s²).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.rows.checks import as_numbers, check_numbers
from ctrlgen.rows.constants import follow

__all__ = ["EDM", "VP", "Coefficients", "CondOT", "Cosine", "DiscreteVP", "Path"]


class Coefficients(NamedTuple):
    """α, σ and their time derivatives at some times, each of the shape of the times."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def wronskian(self) -> Tensor:
        """W = α̇σ − ασ̇; positive where the signal-to-noise ratio increases."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma

    @property
    def a(self) -> Tensor:
        """Linear part of the velocity, σ̇/σ."""
        return self.d_sigma / self.sigma

    @property
    def b(self) -> Tensor:
        """Data part of the velocity, W/σ."""
        return self.wronskian / self.sigma

    @property
    def gamma(self) -> Tensor:
        """γ = ½ d(snr)/dt = αW/σ³ (arXiv 2402.14017, eq 41)."""
        return self.alpha * self.wronskian / self.sigma**3

    @property
    def log_snr(self) -> Tensor:
        """log(α²/σ²)."""
        return 2 * (self.alpha.log() - self.sigma.log())


class Path(ABC):
    """An affine Gaussian path on the clock t ∈ [0, 1], noise at 0 and data at 1."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Coefficients:
        """Coefficients at times t, any shape, in [0, 1]."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """The time at which log(α²/σ²) has the given values: the inverse of `log_snr`."""

    def config(self) -> dict[str, float | list[float]]:
        """Arguments that rebuild this path, JSON-able."""
        return {}

    def __repr__(self) -> str:
        arguments = (
            f"{k}={f'<{len(v)} values>' if isinstance(v, list) else v}"
            for k, v in self.config().items()
        )
        return f"{type(self).__name__}({', '.join(arguments)})"


class CondOT(Path):
    """Straight lines, α = t and σ = 1 − t (Liu et al. 2209.03003; Lipman et al. 2210.02747)."""

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr / 2)


class Cosine(Path):
    """Variance-preserving arc, α = sin(πt/2) and σ = cos(πt/2) (Albergo et al. 2209.15571)."""

    def __call__(self, t: Tensor) -> Coefficients:
        half = math.pi / 2
        sin, cos = torch.sin(half * t), torch.cos(half * t)
        return Coefficients(sin, cos, half * cos, -half * sin)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(log_snr / 2)) * (2 / math.pi)


class VP(Path):
    """Continuous variance-preserving diffusion with linear β (Song et al. 2011.13456).

    Diffusion time runs from τ = 1 at t = 0, where some signal is left (α = exp(−B(1)/2), 0.0066
    by default), to τ = ε at t = 1, where some noise is: at τ = 0 itself σ̇ is infinite.

    Args:
        beta_min: β at the data, per unit time.
        beta_max: β at the noise, per unit time.
        epsilon: ε, diffusion time of the data end, in (0, 1).
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, epsilon: float = 1e-5
    ) -> None:
        check_numbers(beta_min=beta_min, beta_max=beta_max, epsilon=epsilon)
        if not 0 < beta_min <= beta_max:
            raise ValueError(
                f"beta_min, beta_max: expected 0 < min <= max, got {beta_min, beta_max}"
            )
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon: expected a diffusion time in (0, 1), got {epsilon}")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)
        self.epsilon = float(epsilon)

    def config(self) -> dict[str, float | list[float]]:
        return {"beta_min": self.beta_min, "beta_max": self.beta_max, "epsilon": self.epsilon}

    def __call__(self, t: Tensor) -> Coefficients:
        tau, slope = 1 - t * (1 - self.epsilon), self.beta_max - self.beta_min
        integral = tau * (self.beta_min + 0.5 * slope * tau)
        beta = self.beta_min + slope * tau
        alpha = torch.exp(-integral / 2)
        sigma = torch.sqrt(-torch.expm1(-integral))
        # dB/dt = −(1−ε)β, hence α̇ = ½(1−ε)βα and, from σ² = 1 − α², σ̇ = −αα̇/σ.
        d_alpha = 0.5 * (1 - self.epsilon) * beta * alpha
        return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def time_at(self, log_snr: Tensor) -> Tensor:
        integral = torch.nn.functional.softplus(-log_snr)  # log(1 + 1/snr) = B
        # A state of pure noise, B = ∞, lies beyond the path's start.
        integral = integral.clamp_max(0.5 * (self.beta_min + self.beta_max))
        slope = self.beta_max - self.beta_min
        # The positive root of ½ slope τ² + β_min τ = B, in the form that bears slope = 0.
        root = torch.sqrt(self.beta_min**2 + 2 * slope * integral)
        return (1 - 2 * integral / (self.beta_min + root)) / (1 - self.epsilon)


class DiscreteVP(Path):
    """The table ᾱ_i of a discrete diffusion, read as a continuous path (Ho et al. 2006.11239).

    The clock is linear in the index, i = (1 − t)(T − 1): t = 0 is the noisiest entry and t = 1
    the entry i = 0, whose small noise remains. Between entries the log-SNR is interpolated
    linearly.

    Args:
        alphas_cumprod: ᾱ_0 > ᾱ_1 > ... > ᾱ_{T−1}, each in (0, 1), T >= 2. The last may be 0
            ("zero terminal SNR", Lin et al., arXiv 2305.08891): before it α is linear in the index.
    """

    def __init__(self, alphas_cumprod: Tensor | list[float]) -> None:
        table = as_numbers("alphas_cumprod", alphas_cumprod)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(
                f"alphas_cumprod: expected shape (T,), T >= 2, got {tuple(table.shape)}"
            )
        within = (table[:-1] > 0).all() and table[-1] >= 0 and (table < 1).all()
        if not bool(within and (table.diff() < 0).all()):
            raise ValueError(
                "alphas_cumprod: expected values in (0, 1) that decrease with the index; the last "
                "may be 0"
            )
        self.alphas_cumprod = table
        self._zero, self._top = bool(table[-1] == 0), float(table[-2].sqrt())
        # The log-SNR of pure noise is not read: the last interval has a law of its own.
        log_snr = table.log() - torch.log1p(-table)
        self._log_snr = torch.where(table > 0, log_snr, log_snr[-2] - 1)
        self._rising = -self._log_snr

    @classmethod
    def linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVP:
        """The schedule of DDPM: β linear from `beta_start` to `beta_end`."""
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64, device="cpu")
        return cls(torch.cumprod(1 - betas, 0))

    def config(self) -> dict[str, float | list[float]]:
        return {"alphas_cumprod": self.alphas_cumprod.tolist()}

    @property
    def betas(self) -> Tensor:
        """β_i = 1 − ᾱ_i/ᾱ_{i−1} of every entry, shape (T,); ᾱ_{−1} = 1."""
        before = torch.cat((torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]))
        return 1 - self.alphas_cumprod / before

    def index(self, t: Tensor) -> Tensor:
        """The fractional table index i = (1 − t)(T − 1) that a network of this table is given."""
        return (1 - t) * (len(self.alphas_cumprod) - 1)

    def __call__(self, t: Tensor) -> Coefficients:
        table = follow(self._log_snr, t, torch.float64)
        last = len(table) - 1
        index = self.index(t.double())
        low = index.detach().floor().long().clamp(0, last - 1)
        slope = table[low + 1] - table[low]
        log_snr = table[low] + slope * (index - low)
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        # α² = sigmoid(ℓ): α̇ = ½ασ² dℓ/dt and σ̇ = −½σα² dℓ/dt with dℓ/dt = −(T−1) slope.
        rate = -last * slope
        slopes = 0.5 * alpha * sigma**2 * rate, -0.5 * sigma * alpha**2 * rate
        parts: tuple[Tensor, ...] = (alpha, sigma, *slopes)
        if self._zero:
            a = self._top * (last - index)
            s, d_a = (1 - a**2).sqrt(), torch.full_like(a, self._top * last)
            there = index > last - 1
            parts = tuple(
                torch.where(there, mine, other)
                for mine, other in zip((a, s, d_a, -a * d_a / s), parts, strict=True)
            )
        return Coefficients(*(part.to(t.dtype) for part in parts))

    def time_at(self, log_snr: Tensor) -> Tensor:
        table = follow(self._log_snr, log_snr, torch.float64)
        wanted = log_snr.double()
        # searchsorted wants an increasing table: −log SNR increases with the index.
        rising = follow(self._rising, log_snr, torch.float64)
        low = torch.searchsorted(rising, -wanted.detach().contiguous()) - 1
        low = low.clamp(0, len(table) - 2)
        index = low + (wanted - table[low]) / (table[low + 1] - table[low])
        if self._zero:
            top, last = float(self.alphas_cumprod[-2].sqrt()), len(table) - 1
            there = last - torch.sigmoid(wanted).sqrt() / top
            index = torch.where(wanted < table[-2], there, index)
        return (1 - index / (len(table) - 1)).to(log_snr.dtype)


class EDM(Path):
    """Variance-exploding noise levels on Karras' clock, renormalised (Karras et al. 2206.00364).

    s(t) = (s_max^{1/ρ} + t (s_min^{1/ρ} − s_max^{1/ρ}))^ρ; the state here is the variance-exploding
    one divided by √(1 + s²). A network of that family takes x/α = x_1 + s x_0 and s = σ/α.

    Args:
        sigma_min: noise level at t = 1.
        sigma_max: noise level at t = 0.
        rho: exponent of the clock.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        check_numbers(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        if not 0 < sigma_min < sigma_max or rho <= 0:
            raise ValueError(
                "sigma_min, sigma_max, rho: expected 0 < sigma_min < sigma_max and rho > 0, "
                f"got {sigma_min, sigma_max, rho}"
            )
        self.sigma_min, self.sigma_max, self.rho = float(sigma_min), float(sigma_max), float(rho)

    def config(self) -> dict[str, float | list[float]]:
        return {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "rho": self.rho}

    def _ends(self) -> tuple[float, float]:
        return self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)

    def __call__(self, t: Tensor) -> Coefficients:
        start, end = self._ends()
        root = start + t * (end - start)
        s = root**self.rho
        d_s = self.rho * root ** (self.rho - 1) * (end - start)
        alpha = torch.rsqrt(1 + s**2)
        return Coefficients(alpha, s * alpha, -s * d_s * alpha**3, d_s * alpha**3)

    def time_at(self, log_snr: Tensor) -> Tensor:
        start, end = self._ends()
        s = torch.exp(-log_snr / 2)
        return (s ** (1 / self.rho) - start) / (end - start)
