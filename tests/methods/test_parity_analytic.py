"""Two steps of the methods with analytic guidance against their formulas, to 1e-9.

See `test_parity`. Matrices are dense here, and what the conjugate integrators integrate is done by
adaptive quadrature in the clock of the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from ctrlgen.methods import DDRM, OTODE, AncestralPiGDM, CPiGDM, CPiGFM, PiGDM
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import VP, CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Times

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-9}
EPSILON = 1e-5  # of the path, at its data end
TIMES, STOP = (0.6, 0.75), 0.9
NOISE = 0.1


def _integral(rate: Callable[[float], float], t: float, s: float) -> float:
    return quad(rate, t, s, epsabs=1e-14, epsrel=1e-13)[0]


class Dense:
    """H and what follows from it as matrices; rows are samples."""

    def __init__(self, stub: Any) -> None:
        self.h, self.y = stub.matrix, stub.y
        self.inverse = torch.linalg.pinv(self.h)
        self.range = self.inverse @ self.h  # P
        self.null = torch.eye(4, dtype=torch.float64) - self.range
        self.squares = self.inverse @ self.inverse.T  # N = H†(H†)^T
        self.proxy = self.y @ self.inverse.T

    def pull(self, data: Tensor, r2: float, noise: float) -> Tensor:
        """r²H^T(r²HH^T + σ²)^{-1}(y − Hx̂)."""
        gram = r2 * self.h @ self.h.T + noise**2 * torch.eye(2, dtype=torch.float64)
        return r2 * torch.linalg.solve(gram, (self.y - data @ self.h.T).T).T @ self.h


def _vp(t: float) -> tuple[float, float, float]:
    """α, σ and ½β dτ/dt, in the direction of t."""
    tau = 1 - t * (1 - EPSILON)
    b = 0.1 * tau + 0.5 * 19.9 * tau**2
    return math.exp(-b / 2), math.sqrt(-math.expm1(-b)), 0.5 * (1 - EPSILON) * (0.1 + 19.9 * tau)


def _on_vp(stub: Any) -> Prior:
    return Prior(Flow(stub.network, VP(epsilon=EPSILON), "noise"), stub.source)


def _noise(stub: Any, t: float) -> Callable[[Tensor], Tensor]:
    return lambda x: stub.network(x, x.new_full((len(x),), t))


def _data(stub: Any, t: float) -> Callable[[Tensor], Tensor]:
    alpha, sigma, _ = _vp(t)
    return lambda x: (x - sigma * _noise(stub, t)(x)) / alpha


STEPS = [(TIMES[0], TIMES[1]), (TIMES[1], STOP)]


@pytest.mark.parametrize("decay", [0.0, -0.4])
def test_pigdm_as_an_ode(decay: float, stub: Any) -> None:
    """x̄ ← x̄ − λδx̄ + ΔΦ ε̂ + ½wβ A g δ,   A = e^{λτ}/μ,   Φ̇ = ½βA/σ."""
    method = PiGDM(weight=3.0, decay=decay, grid=Times(TIMES, STOP), clock=None, **DOUBLE)
    found = method(_on_vp(stub), stub.cost(), seeds=stub.seeds)
    dense = Dense(stub)

    def scale(t: float) -> float:
        return math.exp(decay * (1 - t)) / _vp(t)[0]

    alpha, sigma, _ = _vp(TIMES[0])
    x = alpha * dense.proxy + sigma * stub.z
    for t, s in STEPS:
        data = _data(stub, t)
        residual = dense.proxy - data(x) @ dense.range
        pulled = stub.product(data, x, residual)
        step = -_integral(lambda v: _vp(v)[2] * scale(v) / _vp(v)[1], t, s)
        bar = scale(t) * x * (1 - decay * (s - t)) + step * _noise(stub, t)(x)
        bar = bar + 3.0 * _vp(t)[2] * scale(t) * (s - t) * pulled
        x = bar / scale(s)
    assert torch.allclose(found.samples, x, **NEAR)


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_pigdm_as_first_published(noise: float, stub: Any) -> None:
    """DDIM(1), then + w√ᾱ_t√ᾱ_s (∂x̂/∂x)^T R; ε̂ stays what it was."""
    method = AncestralPiGDM(weight=0.7, grid=stub.grid, clock=None, **DOUBLE)
    found = method(stub.diffusion, stub.cost(noise), seeds=stub.seeds)
    dense, bar = Dense(stub), stub.bars[550]
    x = bar**0.5 * dense.proxy + (1 - bar) ** 0.5 * stub.z
    for k, (i, j) in stub.steps:
        data, eps = stub.data(x, i), stub.noise(x, i)
        if noise:
            pull = dense.pull(data, 1 - stub.bars[i], noise)
        else:
            pull = dense.proxy - data @ dense.range
        pulled = stub.product(lambda v, i=i: stub.data(v, i), x, pull)
        x = stub.ddim(data, eps, i, j, stub.fresh(k), 1.0)
        x = x + 0.7 * (stub.bars[i] * stub.bars[j]) ** 0.5 * pulled
    assert torch.allclose(found.samples, x, **NEAR)


def _conjugate(stub: Any, w: float, decay: float, sigma_y: float) -> Tensor:
    """The released samplers in x̄, without noise and with it (κ₃ and N)."""
    dense = Dense(stub)

    def wide(t: float) -> float:
        return math.exp(decay * (1 - t)) / _vp(t)[0]

    def narrow(t: float) -> float:
        return math.exp(decay * (1 - t)) * _vp(t)[0] ** (w - 1)

    def kappa(t: float) -> float:
        alpha, sigma, _ = _vp(t)
        return 0.5 * w * (narrow(t) - 1) * sigma_y**2 * math.log(sigma**2 / alpha**2)

    def forward(t: float) -> Tensor:
        return wide(t) * dense.null + narrow(t) * dense.range + kappa(t) * dense.squares

    def backward(t: float) -> Tensor:
        plain = dense.null / wide(t) + dense.range / narrow(t)
        return plain - kappa(t) * plain @ dense.squares @ plain

    def integrated(factor: Callable[[float], float], t: float, s: float, null: bool) -> Tensor:
        """∫ ½β factor Ā over the step, on the range alone or on all of the space."""
        parts = [(narrow, dense.range), (kappa, dense.squares)]
        parts += [(wide, dense.null)] if null else []
        return sum(
            _integral(lambda v, f=f: _vp(v)[2] * factor(v) * f(v), t, s) * m for f, m in parts
        )

    alpha, sigma, _ = _vp(TIMES[0])
    x = alpha * dense.proxy + sigma * stub.z
    bar = x @ forward(TIMES[0])
    for t, s in STEPS:
        if sigma_y:
            x = bar @ backward(t)  # at the first step too
        eps = _noise(stub, t)
        residual = dense.proxy - _data(stub, t)(x) @ dense.range
        pulled = stub.product(eps, x, residual)
        measured = w * integrated(lambda v: _vp(v)[0], t, s, False)
        network = w * integrated(lambda v: _vp(v)[1], t, s, False)
        network = network - integrated(lambda v: 1 / _vp(v)[1], t, s, True)
        jacobian = -w * integrated(lambda v: _vp(v)[0] * _vp(v)[1], t, s, True)
        bar = (1 - decay * (s - t)) * bar + dense.proxy @ measured
        bar = bar + eps(x) @ network + pulled @ jacobian
        x = bar @ backward(s)
    return x


@pytest.mark.parametrize("decay", [0.0, -0.4])
@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_c_pigdm_as_released(noise: float, decay: float, stub: Any) -> None:
    """With noise: gain 1, x̄ carried, the network at the approximate inverse; half of σ_y."""
    method = CPiGDM(
        weight=3.0, decay=decay, noisy="released", grid=Times(TIMES, STOP), clock=None, **DOUBLE
    )
    found = method(_on_vp(stub), stub.cost(noise), seeds=stub.seeds)
    expected = _conjugate(stub, 3.0, decay, noise / 2)
    assert torch.allclose(found.samples, expected, **NEAR)
    if noise:  # the approximation shows
        assert (expected - _conjugate(stub, 3.0, decay, 0.0)).abs().max() > 1e-3


@pytest.mark.parametrize("schedule", ["constant", "growing"])
@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_ot_ode(noise: float, schedule: str, stub: Any) -> None:
    """Pokle et al., in PnP-Flow's code: u + (1−t)/t γ_t (∂x̂/∂x)^T H^T(r²HH^T+σ²)^{-1}(y−Hx̂)."""
    method = OTODE(schedule=schedule, grid=Times((0.3, 0.6)), **DOUBLE)  # type: ignore[arg-type]
    found = method(stub.flow, stub.cost(noise), seeds=stub.seeds)
    dense = Dense(stub)
    x = 0.3 * dense.proxy + 0.7 * stub.z
    for t, s in ((0.3, 0.6), (0.6, 1.0)):
        size = (1 - t) ** 2 + t**2
        r2 = (1 - t) ** 2 / size
        velocity = stub.velocity(x, t)
        pull = dense.pull(x + (1 - t) * velocity, r2, noise) / r2
        pulled = pull + (1 - t) * stub.product(lambda v, t=t: stub.velocity(v, t), x, pull)
        gamma = (t / size) ** 0.5 if schedule == "growing" else 1.0
        x = x + (s - t) * (velocity + (1 - t) / t * gamma * pulled)
    assert torch.allclose(found.samples, x, **NEAR)


def test_presets_of_ot_ode_take_steps_of_a_hundredth() -> None:
    """PnP-Flow's code goes from int(100 t_0) to 99 in hundredths."""
    for name, start in {"denoise": 0.3, "deblur": 0.4, "sr": 0.1, "inpaint": 0.1}.items():
        levels = OTODE.preset(name).grid(CondOT())
        times = [level.time for level in levels]
        assert times == pytest.approx([k / 100 for k in range(round(100 * start), 101)], abs=1e-12)


@pytest.mark.parametrize("jacobian", ["exact", "released"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_c_pigfm(decay: float, jacobian: str, stub: Any) -> None:
    """Ȧ = A(λ + wt(1−t)P); as released the increment of Φ_j times δ, its second part without P."""
    w = 5.0
    method = CPiGFM(weight=w, decay=decay, jacobian=jacobian, grid=Times((0.2, 0.6)), **DOUBLE)  # type: ignore[arg-type]
    found = method(stub.flow, stub.cost(), seeds=stub.seeds)
    dense = Dense(stub)

    def wide(t: float) -> float:
        return math.exp(decay * t)

    def narrow(t: float) -> float:
        return math.exp(decay * t + w * (t**2 / 2 - t**3 / 3))

    x = 0.2 * dense.proxy + 0.8 * stub.z
    for t, s in ((0.2, 0.6), (0.6, 1.0)):
        velocity = stub.velocity(x, t)
        residual = dense.proxy - (x + (1 - t) * velocity) @ dense.range
        pulled = stub.product(lambda v, t=t: stub.velocity(v, t), x, residual)
        on_null = _integral(wide, t, s)
        on_range = _integral(lambda v: narrow(v) * (1 - w * v * (1 - v) ** 2), t, s)
        measured = _integral(lambda v: w * v * (1 - v) * narrow(v), t, s)
        first, second = (
            _integral(lambda v, f=f: w * v * (1 - v) ** 2 * f(v), t, s) for f in (wide, narrow)
        )
        if jacobian == "exact":
            turned = pulled @ (first * dense.null + second * dense.range)
        else:
            turned = (s - t) * (first * pulled + (second - first) * pulled)
        bar = (1 + decay * (s - t)) * x @ (wide(t) * dense.null + narrow(t) * dense.range)
        bar = bar + velocity @ (on_null * dense.null + on_range * dense.range)
        bar = bar + measured * dense.proxy + turned
        x = bar @ (dense.null / wide(s) + dense.range / narrow(s))
    assert torch.allclose(found.samples, x, **NEAR)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_ddrm(noise: float, stub: Any) -> None:
    """Kawar et al., coordinate by coordinate; their borderline belongs to the third case."""
    found = DDRM(eta_b=0.9, grid=stub.grid, clock=None, **DOUBLE)(
        stub.diffusion, stub.cost(noise), seeds=stub.seeds
    )
    u, s, vt = torch.linalg.svd(stub.matrix, full_matrices=True)
    measured, eta, eta_b = stub.y @ u / s, 0.85, 0.9
    bar = stub.bars[550]
    r, z = ((1 - bar) / bar) ** 0.5, stub.z @ vt.T
    state = r * z
    for d in range(2):
        if s[d] * r > noise:
            left = (r**2 - noise**2 / float(s[d]) ** 2) ** 0.5
            state[:, d] = measured[:, d] + left * z[:, d]
    x = bar**0.5 * state @ vt
    for k, (i, j) in stub.steps:
        data, eps, z = (v @ vt.T for v in (stub.data(x, i), stub.noise(x, i), stub.fresh(k)))
        r = ((1 - stub.bars[j]) / stub.bars[j]) ** 0.5
        state = data + (1 - eta**2) ** 0.5 * r * eps + eta * r * z
        for d in range(2):
            known, size = measured[:, d] - data[:, d], float(s[d])
            if size * r < noise:
                kept = (1 - eta**2) ** 0.5 * r * known * size / noise
                state[:, d] = data[:, d] + kept + eta * r * z[:, d]
            else:
                left = (r**2 - eta_b**2 * noise**2 / size**2) ** 0.5
                state[:, d] = data[:, d] + eta_b * known + left * z[:, d]
        x = stub.bars[j] ** 0.5 * state @ vt
    assert torch.allclose(found.samples, x, **NEAR)
