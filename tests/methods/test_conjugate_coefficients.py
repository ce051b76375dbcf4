"""Coefficients of the conjugate integrators against closed forms and fine solutions of the ODE."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, simpson, solve_ivp
from scipy.special import beta, betainc
from torch import Tensor

from ctrlgen.methods.analytic.conjugate_coefficients import (
    StepCoefficients,
    conjugate_steps,
    released_steps,
)
from ctrlgen.priors.paths import VP, CondOT, Cosine, DiscreteVP, Path
from ctrlgen.sampling.grids import Level, Times, Uniform

NULL, RANGE = 0, 1
BOTH = torch.tensor([0.0, 1.0], dtype=torch.float64)
VALUES = torch.tensor([0.0, 0.02, 0.3, 1.0], dtype=torch.float64)
START = (0.7, -1.3, 0.4, 0.9)  # x, H†y, the network's n and q = J^T R
TRUNCATED = Uniform(5, 0.6, 0.999, clean=False)


def close(value: Tensor | float, expected: Tensor | float, tolerance: float = 1e-12) -> None:
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (value, expected))
    assert float((a - b).abs().max()) < tolerance


def fine(form: str, path: Path, t: Level, s: Level, noise: float, w: float) -> np.ndarray:
    """x at s from `START` at t in every direction of `VALUES`: the linear ODE, solved finely."""
    x, p, n, q = START
    values = VALUES.numpy()

    def rate(time: float, state: np.ndarray) -> np.ndarray:
        at = path(torch.tensor(time, dtype=torch.float64))
        alpha, sigma, d_alpha, d_sigma = map(float, at)
        wronskian = float(at.wronskian)
        power = sigma**2 / (alpha**2 + sigma**2) * values**2
        gain = np.where(values > 0, power / np.where(values > 0, power + noise**2, 1), 0)
        if form == "noise":
            pull = gain * (p - (state - sigma * n) / alpha)
            # (∂x̂/∂x)^T R = (R − σ J^T R)/α, with J^T R = q frozen
            guided = w * sigma * wronskian * (pull - sigma * q)
            return d_alpha / alpha * state - wronskian / alpha * n + guided
        pull = gain * (p - (sigma * n - d_sigma * state) / wronskian)
        return n + w * alpha * sigma * (-d_sigma * pull + sigma * q)

    start = np.full(len(values), x)
    solution = solve_ivp(rate, (t.time, s.time), start, rtol=1e-10, atol=1e-11, method="DOP853")
    return solution.y[:, -1]


def applied(at: StepCoefficients) -> Tensor:
    return sum((part * v for part, v in zip(at, START, strict=True)), torch.zeros(()))


@pytest.mark.parametrize("path", [VP(), Cosine(), CondOT()], ids=repr)
@pytest.mark.parametrize("form", ["noise", "velocity"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_step_with_a_frozen_network_is_exact(form: str, path: Path, noise: float) -> None:
    """At λ = 0, for any step size: the network and the Jacobian term enter as constants."""
    t, s = Times((0.3,), stop=0.98)(path)
    at = conjugate_steps(form, path, [t, s], VALUES, noise, 3.0, 0.0).at(0)
    close(applied(at), torch.from_numpy(fine(form, path, t, s, noise, 3.0)), 1e-8)


def test_noise_form_has_the_closed_forms_of_the_paper() -> None:
    """Null space: σ/μ and artanh σ − σ. Range: μ^{w−1} and an incomplete beta function."""
    path, w = VP(), 15.0
    levels = TRUNCATED(path)
    steps = conjugate_steps("noise", path, levels, BOTH, 0.0, w, 0.0)

    def jacobian(level: Level) -> float:
        mu = level.alpha
        return w / 2 * beta(w / 2, 1.5) * (1 - betainc(w / 2, 1.5, mu**2))

    def on_null(level: Level) -> float:
        return w * (math.atanh(level.sigma) - level.sigma)

    for k, (t, s) in enumerate(pairwise(levels)):
        at = steps.at(k)
        a = s.alpha ** (1 - w)  # A(t')^{-1} on the range
        close(at.state[NULL], s.alpha / t.alpha)
        close(at.state[RANGE], t.alpha ** (w - 1) * a)
        close(at.measured[NULL], 0.0, 1e-30)
        close(at.measured[RANGE], (s.alpha**w - t.alpha**w) * a)
        close(at.network[NULL], s.sigma - t.sigma / t.alpha * s.alpha)
        close(at.network[RANGE], s.sigma - t.sigma * t.alpha ** (w - 1) * a)
        close(at.jacobian[NULL], (on_null(s) - on_null(t)) * s.alpha, 1e-12)
        close(at.jacobian[RANGE], (jacobian(s) - jacobian(t)) * a, 1e-11)


def test_velocity_form_has_the_closed_forms_of_the_paper() -> None:
    path, w = CondOT(), 20.0
    levels = Uniform(7, 0.1)(path)
    steps = conjugate_steps("velocity", path, levels, BOTH, 0.0, w, 0.0)

    def b(t: float) -> float:
        return w * (t**2 / 2 - t**3 / 3)

    def phi(t: float) -> dict[str, float]:
        return {
            "y": math.exp(b(t)) - 1,
            "u": 1 - (1 - t) * math.exp(b(t)),
            "null": w * (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4),
        }

    for k, (t, s) in enumerate(pairwise(levels)):
        at, here, there, a = steps.at(k), phi(t.time), phi(s.time), math.exp(-b(s.time))
        close(at.state[NULL], 1.0)
        close(at.state[RANGE], math.exp(b(t.time)) * a)
        close(at.measured[RANGE], (there["y"] - here["y"]) * a)
        close(at.network[NULL], s.time - t.time)
        close(at.network[RANGE], (there["u"] - here["u"]) * a)
        close(at.jacobian[NULL], there["null"] - here["null"])
        integral = quad(
            lambda v: w * v * (1 - v) ** 2 * math.exp(b(v)), t.time, s.time, epsabs=1e-14
        )[0]
        close(at.jacobian[RANGE], integral * a)


@pytest.mark.parametrize(
    ("form", "path"), [("noise", VP()), ("velocity", CondOT())], ids=["noise", "velocity"]
)
@pytest.mark.parametrize("decay", [-0.4, 0.2])
def test_lambda_goes_as_published(form: str, path: Path, decay: float) -> None:
    """x̄ ← x̄ ∓ λδx̄ + ΔΦ, A with e^{λτ} or e^{λt}, against quadrature of the rates of Φ."""
    levels, w = Uniform(3, 0.6, 0.99, clean=False)(path), 3.0
    steps = conjugate_steps(form, path, levels, BOTH, 0.0, w, decay)
    sign = -1 if form == "noise" else 1

    def parts(time: Tensor, place: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """A and the rates of Φ, each divided by A."""
        at = path(time)
        if form == "noise":  # κ₁ + κ₂ = λτ + ½B − ½wB; −Φ̇ of the paper, whose clock runs back
            half = at.d_alpha / at.alpha  # ½β dτ/dt
            a = torch.exp(decay * (1 - time)) * at.alpha ** (place * w - 1)
            network = -half * (1 / at.sigma - place * w * at.sigma)
            return a, (place * half * w * at.alpha, network, -half * w * at.sigma * at.alpha)
        a = torch.exp(decay * time + place * w * (time**2 / 2 - time**3 / 3))
        pull = w * time * (1 - time)
        return a, (place * pull, 1 - place * pull * (1 - time), pull * (1 - time))

    for k, (t, s) in enumerate(pairwise(levels)):
        width = s.time - t.time
        time = torch.linspace(t.time, s.time, 4001, dtype=torch.float64)
        for place in (NULL, RANGE):
            a, rates = parts(time, place)
            at = steps.at(k)
            close(at.state[place], (1 + sign * decay * width) * a[0] / a[-1])
            for part, rate in zip((at.measured, at.network, at.jacobian), rates, strict=True):
                integral = simpson((rate * a / a[-1]).numpy(), x=time.numpy())
                close(part[place], integral, 1e-8)


def test_noise_in_the_measurement_enters_by_singular_value() -> None:
    """G_s against the quadrature of β g_s; B as σ_y vanishes; 0 where s = 0."""
    path, w, noise = VP(), 2.0, 0.1
    levels = Times((0.5, 0.7), stop=0.95)(path)
    steps = conjugate_steps("noise", path, levels, VALUES, noise, w, 0.0)
    t, s = levels[0], levels[1]
    for k, value in enumerate(VALUES.tolist()):

        def gain(time: float, value: float = value) -> float:
            at = path(torch.tensor(time, dtype=torch.float64))
            r2 = float(at.sigma) ** 2
            return 2 * float(at.d_alpha / at.alpha) * value**2 * r2 / (value**2 * r2 + noise**2)

        g = quad(gain, t.time, s.time, epsabs=1e-13)[0]
        close(steps.at(0).state[k], s.alpha / t.alpha * math.exp(-w * g / 2), 1e-11)
    nearly = conjugate_steps("noise", path, levels, BOTH, 1e-9, w, 0.0)
    for exact, near in zip(
        conjugate_steps("noise", path, levels, BOTH, 0.0, w, 0.0), nearly, strict=True
    ):
        close(near, exact, 1e-8)


def test_released_noise_starts_from_the_noiseless_coefficients() -> None:
    path = VP()
    levels = TRUNCATED(path)
    exact = conjugate_steps("noise", path, levels, BOTH, 0.0, 4.0, -0.3)
    first, inverses, steps = released_steps(path, levels, BOTH, 0.0, 4.0, -0.3)
    close(first * inverses[0], torch.ones(2, dtype=torch.float64))
    close(exact.state, steps.state * inverses[1:] / inverses[:-1], 1e-10)
    for a, b in zip(exact[1:], steps[1:], strict=True):
        close(a, b * inverses[1:], 1e-10)
    # κ₃ at τ and τ': Ā and what stands for its inverse by hand.
    later, noisy, carried = released_steps(path, levels[1:], BOTH, 0.05, 4.0, -0.3)
    t, s = levels[1], levels[2]
    kappa, plain = [], []
    for level in (t, s):
        plain.append(math.exp(-0.3 * (1 - level.time)) * level.alpha**3)
        snr = level.alpha**2 / level.sigma**2
        kappa.append(0.5 * 4 * (plain[-1] - 1) * 0.05**2 * math.log(1 / snr))
    width = s.time - t.time
    close(carried.state[0, RANGE], 1 + 0.3 * width)
    close(later[RANGE], plain[0] + kappa[0])
    close(noisy[1, RANGE], 1 / plain[1] - kappa[1] / plain[1] ** 2)
    close(noisy[:, NULL], inverses[1:, NULL])


def test_the_released_treatment_of_noise_needs_a_diffusion() -> None:
    with pytest.raises(ValueError, match="clock"):
        released_steps(CondOT(), Uniform(3, 0.5)(CondOT()), BOTH, 0.1, 1.0, 0.0)


@pytest.mark.parametrize("path", [VP(), DiscreteVP.linear(), CondOT(), Cosine()], ids=repr)
def test_without_guidance_nothing_but_ddim_is_left(path: Path) -> None:
    levels = Uniform(6, 0.1, 0.95, clean=False)(path)
    steps = conjugate_steps("noise", path, levels, VALUES, 0.1, 0.0, 0.0)
    for k, (t, s) in enumerate(pairwise(levels)):
        close(steps.state[k], s.alpha / t.alpha)
        close(steps.network[k], s.sigma - t.sigma * s.alpha / t.alpha)
        close(steps.measured[k], 0.0)
        close(steps.jacobian[k], 0.0)


def test_powers_that_overflow_do_no_harm() -> None:
    """μ^{w−1} at τ = 1 and w = 100 is e^{−500}; the ratios stay finite."""
    levels = Uniform(4, 0.0, 0.999, clean=False)(VP())
    for part in conjugate_steps("noise", VP(), levels, BOTH, 0.0, 100.0, -0.4):
        assert part.isfinite().all()
        assert part.abs().max() < 1e3


def test_values_keep_their_layout() -> None:
    """Coefficients belong to the value, wherever it stands and however often."""
    levels = TRUNCATED(VP())
    values = VALUES[torch.tensor([[3, 0, 1], [1, 1, 2]])]
    once = conjugate_steps("noise", VP(), levels, VALUES, 0.1, 4.0, -0.4)
    table = conjugate_steps("noise", VP(), levels, values, 0.1, 4.0, -0.4)
    for a, b in zip(once, table, strict=True):
        assert b.shape == (5, 2, 3)
        close(b, a[:, torch.tensor([[3, 0, 1], [1, 1, 2]])], 1e-14)


def test_matrix_exponential_of_a_projector() -> None:
    """exp(κ₁ I + κ₂ P) = e^{κ₁} [I + (e^{κ₂} − 1) P], and its inverse, which the ratios use."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    projector = torch.linalg.pinv(h) @ h
    eye = torch.eye(5, dtype=torch.float64)
    k1, k2 = 0.7, -2.3
    a = math.exp(k1) * (eye + (math.exp(k2) - 1) * projector)
    close(a, torch.matrix_exp(k1 * eye + k2 * projector))
    close(a @ (math.exp(-k1) * (eye + (math.exp(-k2) - 1) * projector)), eye)
