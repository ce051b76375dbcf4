"""Where to start: blends, and the guided start against the conditional flow in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.methods import DFlow
from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.methods.starts import (
    Blend,
    GuidedStart,
    Initializer,
    Refined,
    SourceSample,
    guided_velocity,
)
from ctrlgen.operators.base import Measurement, Operator, dense
from ctrlgen.priors.codecs import Codec, Identity, Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import RK4, Dopri5, Midpoint
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
SEEDS = [5, 2, 8]
D, M = 4, 2
TORCH = {"dtype": torch.float64}


def rows(size: int, stream: int) -> Tensor:
    return normal(SEEDS, (size,), stream, **TORCH)


@pytest.fixture
def problem(matrix_operator: Build) -> Callable[..., Measurement]:
    """A linear problem in four dimensions, two of them seen; noise 0.2 unless told."""
    matrix = normal([1], (M, D), 3, **TORCH)[0]
    return lambda noise=0.2: Measurement(matrix_operator(matrix), rows(M, 11), noise)


# ------------------------------------------------------------------ draws and blends


def test_a_source_sample_is_the_draw(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(2, D))
    z = rows(D, 1)
    assert torch.equal(SourceSample()(prior, None, SEEDS, z), z)
    SourceSample().check(prior, None)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.25, 1.0])
def test_blend_is_the_weighted_mean(
    weight: float, problem: Build, mixture: Build, prior_of: Build
) -> None:
    """x_0 = √a y(0) + √(1−a) z, y(0) the source of H†y (arXiv 2402.14017, eq 8)."""
    prior, given, z = prior_of(mixture(2, D)), problem(), rows(D, 1)
    solver = RK4(20)
    found = Blend(weight, solver)(prior, given, SEEDS, z)
    y0 = solver(prior.velocity, given.operator.pinv(given.y), 1.0, 0.0)
    expected = math.sqrt(weight) * y0 + math.sqrt(1 - weight) * z
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)
    assert not found.requires_grad
    assert torch.allclose(RK4(50)(prior.velocity, y0), given.operator.pinv(given.y), atol=2e-2)


def test_blend_on_a_gaussian_in_closed_form(problem: Build) -> None:
    """Φ(z) = m + S^{1/2} z, so y(0) = S^{-1/2} (H†y − m)."""
    mean, variances = rows(D, 2)[0], torch.tensor([0.3, 1.0, 2.0, 0.7], **TORCH)
    prior = Prior(gaussian(mean, variances.diag()).flow(), Gaussian((D,)))
    given, z = problem(), rows(D, 1)
    found = Blend(0.3, Dopri5(1e-9, 1e-9))(prior, given, SEEDS, z)
    y0 = (given.operator.pinv(given.y) - mean) / variances.sqrt()
    assert torch.allclose(found, math.sqrt(0.3) * y0 + math.sqrt(0.7) * z, rtol=0, atol=1e-6)


def test_rescaled_blend_keeps_the_typical_norm(
    problem: Build, mixture: Build, prior_of: Build
) -> None:
    prior, given = prior_of(mixture(2, D)), problem()
    back = Blend(1.0, rescale=True)(prior, given, SEEDS, rows(D, 1))
    assert torch.allclose(back.norm(dim=1), torch.full((3,), 2.0, **TORCH))
    plain = Blend(1.0)(prior, given, SEEDS, rows(D, 1))
    assert torch.allclose(back, 2 * torch.nn.functional.normalize(plain))
    # E‖x_0‖² = a d + (1−a) d = d: the cross term has mean zero over the draws of z.
    many = normal(range(4000), (D,), 1, **TORCH)
    blend = math.sqrt(0.4) * back[:1] + math.sqrt(0.6) * many
    assert float(blend.square().sum(1).mean()) == pytest.approx(D, rel=0.03)
    row = Measurement(given.operator, given.y[:1].expand(4000, -1), 0.2)
    found = Blend(0.4, rescale=True)(prior, row, range(4000), many)
    assert torch.allclose(found, blend, rtol=0, atol=1e-12)


def test_blend_through_a_codec(problem: Build, mixture: Build, prior_of: Build) -> None:
    prior, given = prior_of(mixture(2, D)), problem()
    prior.codec = Scaled(2.0, 0.5)
    found = Blend(1.0)(prior, given, SEEDS, rows(D, 1))
    state = (given.operator.pinv(given.y) - 0.5) / 2
    assert torch.allclose(found, Midpoint(10)(prior.velocity, state, 1.0, 0.0), atol=1e-13)


# ------------------------------------------------------------------ the guided velocity


@pytest.mark.parametrize("path", [CondOT(), Cosine()], ids=["condot", "cosine"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("codec", [Identity(), Scaled(3.0, -0.2)], ids=["identity", "scaled"])
def test_guided_velocity_is_the_formula(
    codec: Codec, noise: float, path: Path, problem: Build, mixture: Build, prior_of: Build
) -> None:
    """u + (σW/α) (∂x̂/∂x)^T H^T (r²HH^T + σ_y²I)^{-1} (y − Hx̂) by dense algebra."""
    prior, given, t = prior_of(mixture(3, D), path), problem(noise), 0.37
    prior.codec = codec
    scale, shift = (3.0, -0.2) if isinstance(codec, Scaled) else (1.0, 0.0)
    matrix = scale * dense(given.operator, (D,))  # as the state sees it
    y = given.y - given.operator(torch.full((1, D), shift, **TORCH))
    x = rows(D, 6)
    at = path(torch.tensor(t, **TORCH))
    r2 = at.sigma**2 / (at.alpha**2 + at.sigma**2)
    gram = r2 * matrix @ matrix.T + noise**2 * torch.eye(M, **TORCH)
    found = guided_velocity(prior, given, x, t)
    for i in range(3):
        row = x[i : i + 1]
        denoised = prior.flow.denoise(row, t)[0]
        jacobian = torch.autograd.functional.jacobian(
            lambda v: prior.flow.denoise(v.unsqueeze(0), t)[0], row[0]
        )
        pull = jacobian.T @ matrix.T @ torch.linalg.solve(gram, y[i] - matrix @ denoised)
        expected = prior.flow.velocity(row, t)[0] + at.sigma * at.wronskian / at.alpha * pull
        assert torch.allclose(found[i], expected, rtol=0, atol=1e-11)
    assert not found.requires_grad


def test_guided_velocity_of_an_operator_that_is_not_linear(
    problem: Build, mixture: Build, prior_of: Build
) -> None:
    """(σW/α) J_x̂^T J_H^T (y − H(x̂))/(r² + σ_y²), by autograd through one evaluation."""

    class Bent(Operator):
        def __call__(self, x: Tensor) -> Tensor:
            return torch.tanh(x) + 0.1 * x**2

    prior, t, noise = prior_of(mixture(2, D)), 0.6, 0.3
    x, y = rows(D, 6), rows(D, 7)
    at = prior.flow.path(torch.tensor(t, dtype=torch.float64))
    r2 = at.sigma**2 / (at.alpha**2 + at.sigma**2)
    point = x.clone().requires_grad_()
    seen = prior.predict(point, t)
    there = Bent()(seen.data)
    residual = y - there
    jacobian = [torch.autograd.grad(h, point, retain_graph=True)[0] for h in there.sum(0)]
    pull = sum(residual[:, [j]] * row for j, row in enumerate(jacobian)) / (r2 + noise**2)
    expected = seen.velocity + at.sigma * at.wronskian / at.alpha * pull
    found = guided_velocity(prior, Measurement(Bent(), y, noise), x, t)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_guided_velocity_is_exact_for_white_data(problem: Build) -> None:
    """Prior N(0, I): conditional on y the flow is that of a Gaussian, known in closed form."""
    white = gaussian(torch.zeros(D, **TORCH), torch.eye(D, **TORCH))
    given, x = problem(), rows(D, 6)
    matrix = dense(given.operator, (D,))
    found = guided_velocity(Prior(white.flow(), Gaussian((D,))), given, x, 0.6)
    for i in range(3):
        posterior = white.posterior(matrix, given.y[i], 0.2)
        exact = posterior.flow().velocity(x[i : i + 1], 0.6)
        assert torch.allclose(found[i : i + 1], exact, rtol=0, atol=1e-12)


def test_guided_velocity_costs_one_forward_and_one_vjp(
    problem: Build, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(3, D))
    guided_velocity(prior, problem(), rows(D, 6), 0.5)
    counts = prior.flow.evaluations
    assert (counts.forward, counts.vjp, counts.forward_rows, counts.vjp_rows) == (1, 1, 3, 3)


# ------------------------------------------------------------------ the guided start


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize(("start", "temperature"), [(0.1, 1.0), (0.4, 0.5)])
def test_guided_start_is_the_affine_map_of_white_data(
    start: float, temperature: float, noise: float, problem: Build
) -> None:
    """N(0, I) moves to N(μ, Σ), μ = H^T(HH^T + σ²)^{-1} y and Σ = I − H^T(HH^T + σ²)^{-1} H.

    Along the conditional flow x_t = α_t μ + (α_t²Σ + σ_t²I)^{1/2} c with c constant, from
    x_{t_0} = α H†y + σ z: an affine map of y and of the noise. The unconditional flow from 0 to 1
    is the identity here, so the source point is the end point. Two step sizes, extrapolated.
    """
    white = gaussian(torch.zeros(D, **TORCH), torch.eye(D, **TORCH))
    prior, given = Prior(white.flow(), Gaussian((D,))), problem(noise)
    coarse, fine = (
        GuidedStart(steps, start, temperature, RK4(20))(prior, given, SEEDS, rows(D, 0))
        for steps in (100, 200)
    )
    extrapolated = 2 * fine - coarse

    matrix = dense(given.operator, (D,))
    gain = matrix.T @ torch.linalg.inv(matrix @ matrix.T + noise**2 * torch.eye(M, **TORCH))
    mean, covariance = given.y @ gain.T, torch.eye(D, **TORCH) - gain @ matrix
    values, basis = torch.linalg.eigh((covariance + covariance.T) / 2)
    values = values.clamp_min(0)
    growth = (values / (start**2 * values + (1 - start) ** 2)).sqrt()
    z = temperature * normal(SEEDS, (D,), 3, **TORCH)  # the stream of the guided start
    at_start = start * given.operator.pinv(given.y) + (1 - start) * z
    expected = mean + (at_start - start * mean) @ basis @ growth.diag() @ basis.T
    assert torch.allclose(extrapolated, expected, rtol=0, atol=2e-4)
    first, second = ((v - expected).abs().max() for v in (coarse, fine))
    if noise:  # first order, as Euler steps are
        assert float(first / second) == pytest.approx(2, rel=0.1)


def test_guided_start_lands_on_the_measurement(
    problem: Build, mixture: Build, prior_of: Build
) -> None:
    """Noiseless, the last step reaches Hx = y; its source leads there again."""
    prior, given = prior_of(mixture(1, D)), problem(0.0)
    x0 = GuidedStart(20, solver=RK4(100))(prior, given, SEEDS, rows(D, 0))
    end = RK4(100)(prior.velocity, x0)
    error = (given.operator(end) - given.y).norm(dim=1)
    before = (given.operator(RK4(100)(prior.velocity, rows(D, 0))) - given.y).norm(dim=1)
    assert bool((error < 0.1 * before).all())


def test_guided_start_counts(problem: Build, mixture: Build, prior_of: Build) -> None:
    """As many forward and backward passes as steps, and the solve back."""
    prior = prior_of(mixture(2, D))
    GuidedStart(7, solver=Midpoint(4))(prior, problem(), SEEDS, rows(D, 0))
    counts = prior.flow.evaluations
    assert (counts.forward, counts.vjp) == (7 + 8, 7)
    assert (counts.forward_rows, counts.vjp_rows) == (3 * 15, 3 * 7)


# ------------------------------------------------------------------ refinement


def straight(problem: Build) -> tuple[Prior, Refined]:
    """A Gaussian prior, Φ(z) = m + S^{1/2} z, and exact solves there and back."""
    variances = torch.tensor([0.3, 1.0, 2.0, 0.7], **TORCH)
    prior = Prior(gaussian(rows(D, 2)[0], variances.diag()).flow(), Gaussian((D,)))
    exact = Dopri5(1e-10, 1e-10)
    return prior, Refined(SourceSample(), rounds=3, solver=exact, inverse=exact)


@pytest.mark.parametrize("damping", [0.3, 1.0])
def test_rounds_shrink_the_residual_by_the_damping(damping: float, problem: Build) -> None:
    """Where Ψ is Φ's inverse, x moves to x + aH†(y − Hx): (1 − a)^k of the residual is left."""
    prior, start = straight(problem)
    start.damping = damping
    given, z = problem(0.0), rows(D, 0)
    x0 = start(prior, given, SEEDS, z)
    before, after = (start.solver(prior.velocity, source) for source in (z, x0))
    left, first = (given.y - given.operator(x) for x in (after, before))
    assert torch.allclose(left, (1 - damping) ** 3 * first, rtol=0, atol=1e-7)
    # What was not measured stays as it was.
    hidden = (after - before) - given.operator.pinv(given.operator(after - before))
    assert float(hidden.abs().max()) < 1e-7


def test_rounds_fade_out_at_the_noise(problem: Build) -> None:
    """With noise a round is x + a r²H^T(r²HH^T + σ²)^{-1}(y − Hx), r² = mean (y − Hx)² − σ²."""
    prior, start = straight(problem)
    start.rounds = 1
    given, z = problem(0.2), rows(D, 0)
    matrix = dense(given.operator, (D,))
    x = start.solver(prior.velocity, z)
    residual = given.y - x @ matrix.T
    r2 = residual.square().mean(1) - 0.2**2
    assert bool((r2 > 0).all())
    gram = r2[:, None, None] * (matrix @ matrix.T) + 0.2**2 * torch.eye(M, **TORCH)
    pull = torch.linalg.solve(gram, residual) @ matrix
    expected = x + 0.5 * r2[:, None] * pull
    found = start.solver(prior.velocity, start(prior, given, SEEDS, z))
    assert torch.allclose(found, expected, rtol=0, atol=1e-7)
    # A residual that is no larger than the noise is left alone.
    met = given._replace(y=x @ matrix.T + 0.1)
    assert torch.allclose(start(prior, met, SEEDS, z), z, rtol=0, atol=1e-7)


def test_each_sample_keeps_its_best_round(problem: Build, mixture: Build, prior_of: Build) -> None:
    prior, given, z = prior_of(mixture(3, D)), problem(0.0), rows(D, 0)
    errors = []
    for rounds in range(1, 6):
        x0 = Refined(SourceSample(), rounds)(prior, given, SEEDS, z)
        residual = given.y - given.operator(prior.generate(x0, Midpoint(3)))
        errors.append(residual.square().mean(1))
    first = (given.y - given.operator(prior.generate(z, Midpoint(3)))).square().mean(1)
    history = torch.stack([first, *errors])
    assert bool((history.diff(dim=0) <= 0).all())
    assert bool((history[-1] < 0.1 * first).all())


def test_refinement_counts(problem: Build, mixture: Build, prior_of: Build) -> None:
    """A solve forth in every round and at the end, two solves back in every round, no vjp."""
    prior = prior_of(mixture(2, D))
    Refined(SourceSample(), 4, solver=Midpoint(2), inverse=Midpoint(5))(
        prior, problem(), SEEDS, rows(D, 0)
    )
    counts = prior.flow.evaluations
    assert (counts.forward, counts.vjp) == (5 * 4 + 4 * 2 * 10, 0)


class Slow(torch.nn.Module):
    """A flow with a rate of its own for every sample."""

    def forward(self, x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -rate.unsqueeze(1) * x


@pytest.mark.parametrize(
    "initializer",
    [
        Blend(0.3, Dopri5(1e-5, 1e-5)),
        GuidedStart(3, solver=Dopri5(1e-5, 1e-5)),
        Blend(0.3),
        GuidedStart(3),
        Refined(Blend(0.3), 2),
        MultiSecant(4, 2),
    ],
    ids=repr,
)
def test_starts_belong_to_their_samples(initializer: Initializer, problem: Build) -> None:
    """Alone as in the batch, conditions included, whatever the solver."""
    rates = torch.tensor([0.1, 4.0, 1.0], **TORCH)
    prior = Prior(Flow(Slow(), CondOT()), Gaussian((D,)), conditions={"rate": rates})
    given, z = problem(), rows(D, 0)
    together = initializer(prior, given, SEEDS, z)
    for i in range(3):
        index = torch.tensor([i])
        alone = initializer(
            prior.take(index), given._replace(y=given.y[index]), SEEDS[i : i + 1], z[index]
        )
        assert torch.allclose(together[index], alone, rtol=0, atol=1e-11)


def test_starts_lie_in_the_subspace_of_the_source(matrix_operator: Build) -> None:
    """Noise and result of a guided start have the source's zero centre of mass."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    source = MaskedGaussian(mask, features=3)

    class All(Operator):
        def __call__(self, x: Tensor) -> Tensor:
            return x

        def pinv(self, y: Tensor) -> Tensor:
            return y

    prior = Prior(Flow(lambda x, t: -x, CondOT()), source)
    z = source.sample([1, 2], **TORCH)
    given = Measurement(All(), normal([3, 4], (3, 3), **TORCH), 0.1)
    for start in (Blend(0.5), Refined(Blend(0.5)), MultiSecant(3)):
        found = start(prior, given._replace(noise=0.0), [1, 2], z)
        assert torch.allclose(source.project(found), found, atol=1e-14)


# ------------------------------------------------------------------ what they need


class Squares(Operator):
    """A measurement that is not linear."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.square()


class Curved(Codec):
    """A codec that does not scale."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.atanh(x)

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z)


@pytest.mark.parametrize(
    "initializer",
    [Blend(), GuidedStart(), Refined(SourceSample())],
    ids=["blend", "guided", "refined"],
)
def test_a_cost_without_measurement_is_refused(
    initializer: Initializer, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(1, D))
    with pytest.raises(ValueError, match=r"initializer: .* needs a cost with a measurement"):
        DFlow(initializer=initializer, dtype=torch.float64)(
            prior, lambda x: x.square().sum(1), seeds=SEEDS
        )
    assert prior.flow.evaluations.forward == 0


def test_operators_without_what_is_needed_are_refused(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(1, D))
    cost = NegativePSNR(Squares(), rows(D, 1))
    with pytest.raises(
        ValueError, match=r"initializer: GuidedStart needs a pseudo-inverse, Squares has no"
    ):
        DFlow(initializer=GuidedStart(), dtype=torch.float64)(prior, cost, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"initializer: Refined needs a linear operator"):
        DFlow(initializer=Refined(SourceSample()), dtype=torch.float64)(prior, cost, seeds=SEEDS)
    with pytest.raises(NotImplementedError, match="Squares has no pseudo-inverse"):
        DFlow(initializer=Blend(), dtype=torch.float64)(prior, cost, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


def test_codecs_that_do_not_scale_are_refused(
    problem: Build, mixture: Build, prior_of: Build
) -> None:
    prior, given = prior_of(mixture(1, D)), problem()
    prior.codec = Curved()
    with pytest.raises(ValueError, match=r"initializer: GuidedStart needs a codec.*Curved"):
        DFlow(initializer=GuidedStart(), dtype=torch.float64)(
            prior, NegativePSNR(given.operator, given.y), seeds=SEEDS
        )
    assert prior.flow.evaluations.forward == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Blend(1.5), "weight: .*1.5"),
        (lambda: Blend(-0.1), "weight: .*-0.1"),
        (lambda: Blend(math.nan), "weight: .*nan"),
        (lambda: GuidedStart(0), "steps: .*0"),
        (lambda: GuidedStart(2.5), "steps: .*2.5"),  # type: ignore[arg-type]
        (lambda: GuidedStart(start=0.0), "start: .*0.0"),
        (lambda: GuidedStart(start=1.0), "start: .*1.0"),
        (lambda: GuidedStart(temperature=-1), "temperature: .*-1"),
        (lambda: Refined(rounds=0), "rounds: .*0"),
        (lambda: Refined(damping=0.0), "damping: .*0.0"),
        (lambda: Refined(damping=1.5), "damping: .*1.5"),
    ],
)
def test_arguments_are_checked(build: Callable[[], Initializer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "initializer",
    [
        SourceSample(),
        Blend(0.2, Midpoint(3), True),
        GuidedStart(4, 0.2, 0.5, Midpoint(3)),
        Refined(Blend(0.3), 2, 0.7, Midpoint(2), Midpoint(5)),
    ],
    ids=repr,
)
def test_configuration_rebuilds_the_initializer(initializer: Initializer) -> None:
    assert repr(type(initializer)(**initializer.config())) == repr(initializer)
