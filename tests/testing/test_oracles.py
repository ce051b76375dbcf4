"""Oracles: closed forms against densities, derivatives and Bayes' rule, none by sampling alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.func import hessian, vmap

from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.testing.oracles import TRUTH, Mixture, gaussian

EXACT = {"rtol": 1e-10, "atol": 1e-11}
ALPHA, SIGMA = 0.6, 0.7


def parts(k: int = 3, d: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    root = normal(range(k), (d, d), dtype=torch.float64)
    covariances = 0.1 * root @ root.mT + 0.05 * torch.eye(d, dtype=torch.float64)
    weights = torch.arange(1, k + 1, dtype=torch.float64)
    return (
        normal(range(10, 10 + k), (d,), dtype=torch.float64),
        covariances,
        weights / weights.sum(),
    )


def reference(alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
    """p_t by torch's distributions."""
    means, covariances, weights = parts()
    noisy = alpha**2 * covariances + sigma**2 * torch.eye(4, dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(alpha * means, noisy))


@pytest.fixture
def mixture() -> Mixture:
    return Mixture(*parts())


@pytest.fixture
def x() -> torch.Tensor:
    return normal(range(20, 27), (4,), dtype=torch.float64)


def test_log_density(mixture, x):
    torch.testing.assert_close(mixture.log_prob(x), reference().log_prob(x), **EXACT)
    expected = reference(ALPHA, SIGMA).log_prob(x)
    torch.testing.assert_close(mixture.log_prob(x, ALPHA, SIGMA), expected, **EXACT)


def test_denoiser_is_tweedies(mixture, x):
    """x̂ = (x + σ² ∇ log p_t)/α."""
    x = x.requires_grad_()
    (score,) = torch.autograd.grad(reference(ALPHA, SIGMA).log_prob(x).sum(), x)
    expected = (x + SIGMA**2 * score) / ALPHA
    torch.testing.assert_close(mixture.denoise(x, ALPHA, SIGMA), expected, **EXACT)


def test_variance_is_tweedies_of_second_order(mixture, x):
    """Var = (σ²/α²)(I + σ² ∇² log p_t)."""
    curvature = vmap(hessian(lambda row: mixture.log_prob(row.unsqueeze(0), ALPHA, SIGMA)[0]))(x)
    expected = (SIGMA / ALPHA) ** 2 * (torch.eye(4, dtype=x.dtype) + SIGMA**2 * curvature)
    found = mixture.variance(x, ALPHA, SIGMA)
    torch.testing.assert_close(found, expected, **EXACT)
    assert (torch.linalg.eigvalsh(found) > 0).all()


def test_denoiser_and_variance_from_the_components(mixture, x):
    """The sums of the module's docstring by plain inverses."""
    means, covariances, weights = parts()
    eye = torch.eye(4, dtype=x.dtype)
    noisy = ALPHA**2 * covariances + SIGMA**2 * eye
    log = MultivariateNormal(ALPHA * means, noisy).log_prob(x.unsqueeze(1)) + weights.log()
    p = torch.softmax(log, 1)
    gain = ALPHA * covariances @ torch.linalg.inv(noisy)
    hats = means + torch.einsum("kij,bkj->bki", gain, x.unsqueeze(1) - ALPHA * means)
    hat = torch.einsum("bk,bki->bi", p, hats)
    torch.testing.assert_close(mixture.denoise(x, ALPHA, SIGMA), hat, **EXACT)
    within = torch.linalg.inv(torch.linalg.inv(covariances) + (ALPHA / SIGMA) ** 2 * eye)
    gaps = hats - hat.unsqueeze(1)
    expected = torch.einsum("bk,bkij->bij", p, within + gaps.unsqueeze(3) * gaps.unsqueeze(2))
    torch.testing.assert_close(mixture.variance(x, ALPHA, SIGMA), expected, **EXACT)


def test_velocity_transports_the_density(mixture, path, x):
    """∂_t log p_t + u·∇ log p_t + div u = 0: the continuity equation, exactly."""
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64).requires_grad_()
    x = x.requires_grad_()
    at = path(t)
    log = mixture.log_prob(x, at.alpha, at.sigma)
    d_t, d_x = torch.autograd.grad(log.sum(), (t, x))
    u = mixture.velocity(x, path(t.detach()))
    divergence = sum(
        torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(4)
    )
    residual = d_t + (u * d_x).sum(1) + divergence
    torch.testing.assert_close(residual / d_t.abs().max(), torch.zeros_like(t), rtol=0, atol=1e-10)


def test_velocity_is_regular_at_both_ends(mixture, x):
    """Straight lines: u = E[x_1] − x at the noise, and u = x where all noise is gone."""
    flow = mixture.flow(CondOT())
    torch.testing.assert_close(flow.velocity(x, 0.0), mixture.mean - x, **EXACT)
    torch.testing.assert_close(flow.velocity(x, 1.0), x, **EXACT)
    quarter = math.pi / 2
    torch.testing.assert_close(
        mixture.flow(Cosine()).velocity(x, 0.0), quarter * mixture.mean.expand_as(x), **EXACT
    )


def test_levels_per_sample(mixture, x):
    alpha, sigma = torch.rand(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for f in (mixture.log_prob, mixture.denoise, mixture.variance):
        together = f(x, alpha, sigma)
        for i in (0, 4):
            alone = f(x[i : i + 1], float(alpha[i]), float(sigma[i]))
            torch.testing.assert_close(alone[0], together[i], **EXACT)


def test_mean_and_covariance_are_the_limits_of_pure_noise(mixture, x):
    torch.testing.assert_close(mixture.denoise(x, 0.0, 1.0), mixture.mean.expand_as(x), **EXACT)
    expected = mixture.covariance.expand(7, 4, 4)
    torch.testing.assert_close(mixture.variance(x, 0.0, 1.0), expected, **EXACT)


def test_samples_have_the_moments(mixture):
    """5e4 draws; every moment within five standard errors."""
    x = mixture.sample(range(50_000))
    gap = (x.mean(0) - mixture.mean).abs() / (x.std(0) / math.sqrt(len(x)))
    assert gap.max() < 5
    products = (x - mixture.mean).unsqueeze(2) * (x - mixture.mean).unsqueeze(1)
    gap = (products.mean(0) - mixture.covariance).abs() / (products.std(0) / math.sqrt(len(x)))
    assert gap.max() < 5
    score = mixture.log_prob(x)  # E log p, against an independent estimate of the same law
    other = reference().log_prob(mixture.sample(range(50_000, 100_000)))
    assert abs(score.mean() - other.mean()) < 5 * score.std() * math.sqrt(2 / len(x))


def test_a_gaussian_sample_is_a_normal_draw_coloured():
    """(x − m)^T S^{-1} (x − m) = ‖z‖² of the draw z, exactly."""
    means, covariances, _ = parts()
    gap = gaussian(means[0], covariances[0]).sample(range(7)) - means[0]
    found = torch.einsum("bi,ij,bj->b", gap, torch.linalg.inv(covariances[0]), gap)
    z = normal(range(7), (4,), TRUTH + 1, dtype=torch.float64)
    torch.testing.assert_close(found, z.square().sum(1), **EXACT)


def test_samples_belong_to_their_seeds_and_not_to_the_source(mixture):
    """A sample of seed s owes nothing to x_0 of seed s: a method must not start at the answer."""
    together = mixture.sample([5, 9, 2])
    assert torch.equal(mixture.sample([9]), together[1:2])
    normal_law = gaussian(torch.zeros(4).double(), torch.eye(4).double())
    data, source = normal_law.sample(range(5000)), Gaussian((4,)).sample(range(5000)).double()
    correlation = (data.unsqueeze(2) * source.unsqueeze(1)).mean(0)
    assert correlation.abs().max() < 5 / math.sqrt(5000)


@pytest.mark.parametrize("noise", [0.05, 0.7])
def test_posterior_obeys_bayes(mixture, x, noise):
    """T6.2: log p(x|y) − log p(x) − log N(y; Hx, σ²) is the same number for every x."""
    matrix = normal([31], (2, 4), dtype=torch.float64)[0]
    y = torch.tensor([0.4, -1.1], dtype=torch.float64)
    posterior = mixture.posterior(matrix, y, noise)
    likelihood = MultivariateNormal(x @ matrix.T, noise**2 * torch.eye(2).double()).log_prob(y)
    means, covariances, weights = parts()
    evidence = MixtureSameFamily(
        Categorical(weights),
        MultivariateNormal(
            means @ matrix.T,
            matrix @ covariances @ matrix.T + noise**2 * torch.eye(2).double(),
        ),
    ).log_prob(y)
    found = posterior.log_prob(x) - mixture.log_prob(x) - likelihood
    torch.testing.assert_close(found, -evidence.expand(7), rtol=1e-8, atol=1e-8)


def test_posterior_of_a_gaussian_by_hand():
    """T6.2: m + SH^T(HSH^T + σ²I)^{-1}(y − Hm) and S − SH^T(HSH^T + σ²I)^{-1}HS."""
    means, covariances, _ = parts()
    m, s = means[0], covariances[0]
    h, y = normal([31], (2, 4), dtype=torch.float64)[0], torch.tensor([0.4, -1.1]).double()
    gain = s @ h.T @ torch.linalg.inv(h @ s @ h.T + 0.09 * torch.eye(2).double())
    posterior = gaussian(m, s).posterior(h, y, 0.3)
    torch.testing.assert_close(posterior.mean, m + gain @ (y - h @ m), **EXACT)
    torch.testing.assert_close(posterior.covariance, s - gain @ h @ s, **EXACT)


def test_states_of_any_shape(x):
    means, covariances, weights = parts()
    flat, square = (Mixture(means, covariances, weights, shape) for shape in (None, (2, 1, 2)))
    state = x.reshape(7, 2, 1, 2)
    assert square.sample([1, 2]).shape == (2, 2, 1, 2)
    for f, g in ((flat.denoise, square.denoise), (flat.variance, square.variance)):
        torch.testing.assert_close(
            g(state, ALPHA, SIGMA).reshape(-1), f(x, ALPHA, SIGMA).reshape(-1)
        )
    u = square.flow().velocity(state, 0.4)
    torch.testing.assert_close(u, flat.flow().velocity(x, 0.4).reshape(7, 2, 1, 2))


def test_weights_are_normalised_and_equal_by_default():
    means, covariances, weights = parts()
    scaled = Mixture(means, covariances, 7 * weights)
    torch.testing.assert_close(scaled.weights, weights)
    torch.testing.assert_close(
        Mixture(means, covariances).weights, torch.full((3,), 1 / 3).double()
    )


def test_dtype_and_device(mixture, dtype, device):
    moved = mixture.to(device, dtype)
    x = moved.sample(range(5))
    for value in (
        x,
        moved.log_prob(x, ALPHA, SIGMA),
        moved.denoise(x, ALPHA, SIGMA),
        moved.variance(x, ALPHA, SIGMA),
        moved.flow().velocity(x, 0.5),
    ):
        assert value.dtype == dtype and value.device.type == device.type
    torch.testing.assert_close(x.cpu().double(), mixture.sample(range(5)), rtol=1e-5, atol=1e-5)


def test_bad_arguments_are_named(mixture):
    means, covariances, _ = parts()
    with pytest.raises(ValueError, match="means, covariances"):
        Mixture(means[0], covariances)
    with pytest.raises(ValueError, match="shape: expected 4 entries"):
        Mixture(means, covariances, shape=(3,))
    with pytest.raises(ValueError, match="matrix, y: expected shapes"):
        mixture.posterior(torch.ones(2, 4).double(), torch.ones(3).double(), 0.1)
    with pytest.raises(ValueError, match="noise: expected"):
        mixture.posterior(torch.ones(2, 4).double(), torch.ones(2).double(), 0.0)
