"""Backward passes of optimal control: against global optima, dense algebra and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctrlgen.methods.trajectory.riccati import Dense, Gains, LowRank, Side, Value
from ctrlgen.rows.seeds import normal

B, D, M, STEPS, NOISE = 3, 5, 2, 4, 0.6
SEEDS = [3, 1, 8]
SIDES: list[Side] = ["input", "output"]


def draw(*shape: int, stream: int) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


H = draw(M, D, stream=1)
Y = draw(M, stream=2)
X0 = draw(D, stream=3)
STEP = [torch.eye(D, dtype=torch.float64) + 0.3 * draw(D, D, stream=10 + k) for k in range(STEPS)]
ZERO = torch.zeros(B, dtype=torch.float64)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    assert a.shape == b.shape and float((a - b).abs().max()) < tolerance


def roll(controls: list[Tensor], side: Side) -> list[Tensor]:
    states = [X0]
    for matrix, u in zip(STEP, controls, strict=True):
        x = states[-1]
        states.append(times(matrix, x + u) if side == "input" else times(matrix, x) + u)
    return states


def terminal(end: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Gradient and Hessian products of ½‖y − Hx‖²/σ²."""
    gradient = times(H.mT, times(H, end) - Y) / NOISE**2
    return gradient, lambda columns: H.mT @ (H @ columns) / NOISE**2


def backward(
    curvature: Dense | LowRank, side: Side, weight: float, damping: Tensor, end: Tensor
) -> tuple[list[Gains], list[Value]]:
    gradient, product = terminal(end)
    draws = draw(D, curvature.probes(D), stream=5) if curvature.probes(D) else X0.new_empty(B, D, 0)
    values = [curvature.terminal(gradient, product, draws)]
    gains: list[Gains] = []
    for matrix in reversed(STEP):
        gain, value = curvature.step(
            values[0], lambda c, m=matrix: m.mT @ c, torch.zeros_like(X0), weight, damping, side
        )
        gains.insert(0, gain)
        values.insert(0, value)
    return gains, values


def full(value: Value) -> Tensor:
    """V_xx as a matrix."""
    if value.curvature.ndim == 3:
        return value.curvature
    return (value.basis * value.curvature.unsqueeze(1)) @ value.basis.mT


@pytest.mark.parametrize("side", SIDES)
def test_one_sweep_of_a_linear_problem_is_its_optimum(side: Side) -> None:
    """u_t = (1/r) Φ_t^T H^T (σ² + HGH^T/r)^{-1} (y − Hx_free), G = ΣΦ_tΦ_t^T."""
    r = 0.7
    still = [torch.zeros_like(X0)] * STEPS
    nominal = roll(still, side)
    gains, _ = backward(Dense(), side, r, ZERO, nominal[-1])
    x, controls, one = X0, [], torch.ones(B, dtype=torch.float64)
    for k, gain in enumerate(gains):
        controls.append(gain.law(one, x - nominal[k]))
        x = roll([*controls, *still[k + 1 :]], side)[k + 1]
    phi = []
    for k in range(STEPS):
        matrix = torch.eye(D, dtype=torch.float64).expand(B, D, D)
        for after in STEP[k + (side == "output") :]:
            matrix = after @ matrix
        phi.append(matrix)
    gram = sum((p @ p.mT for p in phi), torch.zeros(B, D, D, dtype=torch.float64))
    inner = NOISE**2 * torch.eye(M, dtype=torch.float64) + H @ gram @ H.mT / r
    e = torch.linalg.solve(inner, (Y - times(H, nominal[-1])).unsqueeze(2))
    for u, p in zip(controls, phi, strict=True):
        close(u, (p.mT @ H.mT @ e).squeeze(2) / r, 1e-11)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rank", [M, D], ids=["rank-of-H", "full"])
def test_low_rank_is_dense_where_the_rank_suffices(side: Side, rank: int) -> None:
    damping = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    end = roll([torch.zeros_like(X0)] * STEPS, side)[-1]
    dense, low = (backward(c, side, 0.4, damping, end) for c in (Dense(), LowRank(rank)))
    deviation = draw(D, stream=6)
    for a, b in zip(dense[0], low[0], strict=True):
        close(a.feedforward, b.feedforward)
        close(a.law(ZERO, deviation), b.law(ZERO, deviation))
        close(a.gradient, b.gradient)
    for a, b in zip(dense[1], low[1], strict=True):
        close(a.gradient, b.gradient)
        close(full(a), full(b))


def test_a_rank_too_small_is_something_else() -> None:
    end = roll([torch.zeros_like(X0)] * STEPS, "input")[-1]
    dense, low = (backward(c, "input", 0.4, ZERO, end)[0] for c in (Dense(), LowRank(1)))
    assert (dense[0].feedforward - low[0].feedforward).abs().max() > 1e-2


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_range_finder_finds_the_leading_directions(power: int) -> None:
    """Exact for the rank of the Hessian; the leading ones, the better the more powers, else."""
    gradient, product = terminal(X0)
    hessian = H.mT @ H / NOISE**2
    exact = LowRank(M, power).terminal(gradient, product, draw(D, M, stream=5))
    close(full(exact), hessian)
    one = LowRank(1, power).terminal(gradient, product, draw(D, 1, stream=5))
    largest = torch.linalg.eigvalsh(hessian)[:, -1:]
    assert bool((one.curvature <= largest + 1e-9).all())
    if power == 2:
        assert bool((one.curvature > 0.97 * largest).all())


@pytest.mark.parametrize("side", SIDES)
def test_first_order_is_the_gradient_of_the_rollout(side: Side) -> None:
    """K = 0 and k_t = (1/α) ∇ log p(y|x_0), at x_{t−1} for output control, at x_t for input."""
    damping = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    controls = [torch.zeros_like(X0).requires_grad_() for _ in range(STEPS)]
    end = roll(controls, side)[-1]
    log_p = -0.5 * (Y - times(H, end)).square().sum() / NOISE**2
    gradients = torch.autograd.grad(log_p, controls)
    gains, _ = backward(LowRank(0), side, 0.0, damping, end.detach())
    for gain, gradient in zip(gains, gradients, strict=True):
        close(gain.feedforward, gradient / damping.unsqueeze(1))
        close(gain.law(ZERO, X0), torch.zeros_like(X0), 1e-30)


def test_without_control_cost_one_output_control_removes_everything() -> None:
    """Unregularised, with invertible V'_xx: V_x = 0 and V_xx = 0 before the step."""
    root = draw(D, D, stream=7)
    eye = torch.eye(D, dtype=torch.float64).expand(B, D, D)
    value = Value(draw(D, stream=8), eye, root @ root.mT + 0.1 * eye)
    gain, before = Dense().step(
        value, lambda c: STEP[0].mT @ c, torch.zeros_like(X0), 0.0, ZERO, "output"
    )
    close(before.gradient, torch.zeros_like(X0), 1e-8)
    close(before.curvature, torch.zeros_like(eye), 1e-8)
    assert gain.feedforward.abs().min() > 0


@pytest.mark.parametrize("side", SIDES)
def test_woodbury_has_a_minus_sign(side: Side) -> None:
    """(aI + ZΛZ^T)^{-1} = a^{-1}(I − Z diag(Λ/(a+Λ)) Z^T), and K against a dense solve."""
    basis = torch.linalg.qr(draw(D, M, stream=9))[0]
    curvature = draw(M, stream=10).square()
    value = Value(draw(D, stream=11), basis, curvature)
    u, weight, damping = draw(D, stream=12), 0.3, torch.tensor([0.1, 0.2, 3.0]).double()
    gain, before = LowRank(M).step(value, lambda c: STEP[0].mT @ c, u, weight, damping, side)
    h_x, after = STEP[0], full(value)
    h_u = h_x if side == "input" else torch.eye(D, dtype=torch.float64).expand(B, D, D)
    q_uu = weight * torch.eye(D, dtype=torch.float64) + h_u.mT @ after @ h_u
    q_u, q_ux = weight * u + times(h_u.mT, value.gradient), h_u.mT @ after @ h_x
    inverse = torch.linalg.inv(q_uu + damping[:, None, None] * torch.eye(D, dtype=torch.float64))
    k, feedback = -times(inverse, q_u), -inverse @ q_ux
    close(gain.feedforward, k)
    close(-gain.left @ gain.right.mT, feedback)
    v_x = times(h_x.mT, value.gradient) + times(feedback.mT, times(q_uu, k) + q_u)
    close(before.gradient, v_x + times(q_ux.mT, k))
    v_xx = h_x.mT @ after @ h_x + feedback.mT @ q_uu @ feedback
    close(full(before), v_xx + feedback.mT @ q_ux + q_ux.mT @ feedback)
    close(before.basis.mT @ before.basis, torch.eye(M, dtype=torch.float64).expand(B, M, M))


def test_a_row_that_is_not_a_number_stays_alone() -> None:
    for curvature in (Dense(), LowRank(M), LowRank(0)):
        end = roll([torch.zeros_like(X0)] * STEPS, "input")[-1]
        clean, _ = backward(curvature, "input", 0.4, ZERO + 0.1, end)
        end = end.clone()
        end[1] = torch.nan
        spoilt, _ = backward(curvature, "input", 0.4, ZERO + 0.1, end)
        for a, b in zip(clean, spoilt, strict=True):
            close(a.feedforward[[0, 2]], b.feedforward[[0, 2]], 1e-12)
            assert not bool(b.feedforward[1].isfinite().all())


def test_negative_curvature_is_left_out() -> None:
    gradient = draw(D, stream=13)
    spectrum = torch.tensor([-2.0, -0.1, 0.0, 0.5, 3.0], dtype=torch.float64)
    for curvature in (Dense(), LowRank(D)):
        value = curvature.terminal(
            gradient, lambda c: spectrum.unsqueeze(1) * c, draw(D, D, stream=14)
        )
        close(full(value), torch.diag(spectrum.clamp_min(0)).expand(B, D, D))
