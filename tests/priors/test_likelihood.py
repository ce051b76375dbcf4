"""Log-likelihoods against closed forms; the divergence, exact and by probes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.priors.codecs import Codec, Scaled
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.likelihood import (
    Augmented,
    bits_per_dimension,
    divergence,
    log_likelihood,
    probes,
)
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import RK4, Dopri5, Midpoint, Solver
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
SEEDS = [3, 1, 4]


def states(*shape: int, stream: int = 9) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


# ------------------------------------------------------------------ divergence


def test_divergence_of_the_gaussian_flow_in_closed_form(mixture: Build, prior_of: Build) -> None:
    """div u = Σ_i (tλ_i − (1−t)) / (t²λ_i + (1−t)²) on straight lines."""
    oracle = mixture(1, 4)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    values, late = oracle.eigenvalues, t.unsqueeze(1)
    expected = (late * values - (1 - late)) / (late**2 * values + (1 - late) ** 2)
    x = states(4)
    u, div = divergence(prior_of(oracle).velocity, x, t, None)
    assert torch.allclose(div, expected.sum(1), rtol=0, atol=1e-12)
    assert torch.equal(u, prior_of(oracle).velocity(x, t))


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_all_rademacher_vectors_together_give_the_trace(
    shape: tuple[int, ...], mixture: Build, prior_of: Build
) -> None:
    """The estimate is unbiased: its mean over all 2^d probes is the divergence."""
    velocity = prior_of(mixture(3, 4, shape=shape)).velocity
    x, t = states(*shape), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    everything = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    v = everything.reshape(1, 16, *shape).expand(3, -1, *shape)
    _, estimate = divergence(velocity, x, t, v)
    _, exact = divergence(velocity, x, t, None)
    assert torch.allclose(estimate, exact, rtol=0, atol=1e-12)
    singles = torch.stack([divergence(velocity, x, t, v[:, i : i + 1])[1] for i in range(16)])
    assert torch.allclose(singles.mean(0), exact, rtol=0, atol=1e-12)
    assert singles.std(0).min() > 1e-3  # and none of them is the trace by itself


def test_divergence_is_differentiable_where_gradients_are_wanted(
    mixture: Build, prior_of: Build
) -> None:
    velocity, t = prior_of(mixture(2, 3)).velocity, torch.full((3,), 0.6, dtype=torch.float64)
    x = states(3).requires_grad_()
    v = probes(SEEDS, (3,), 2, x)
    assert torch.autograd.gradcheck(lambda x: divergence(velocity, x, t, v), x, atol=1e-6)
    with torch.no_grad():
        u, div = divergence(velocity, x, t, v)
    assert not u.requires_grad and not div.requires_grad


def test_probes_belong_to_their_seeds() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    together = probes(SEEDS, (2, 3), 5, like)
    assert together.shape == (3, 5, 2, 3)
    assert set(together.flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(probes(SEEDS[1:2], (2, 3), 5, like)[0], together[1])
    assert not torch.equal(together[0], together[1])


# ------------------------------------------------------------------ log-likelihood


@pytest.mark.parametrize("path", [CondOT(), Cosine()], ids=["condot", "cosine"])
@pytest.mark.parametrize("components", [1, 3])
def test_exact_log_likelihood_of_the_oracles(
    components: int, path: Any, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(components, 3)
    x = states(3)
    found = log_likelihood(prior_of(oracle, path), x, RK4(40))
    assert torch.allclose(found, oracle.log_prob(x), rtol=0, atol=5e-4)


def test_adaptive_solver_and_shaped_states(mixture: Build, prior_of: Build) -> None:
    oracle = mixture(2, 4, shape=(2, 2))
    x = states(2, 2)
    found = log_likelihood(prior_of(oracle), x, Dopri5(1e-7, 1e-7))
    assert torch.allclose(found, oracle.log_prob(x), rtol=0, atol=1e-5)


def test_forward_and_backward_agree(mixture: Build, prior_of: Build) -> None:
    """−log p_1(x(1)) = −log p_0(x_0) + ∫ div u, from either end."""
    prior = prior_of(mixture(2, 3))
    x0 = states(3)
    x1, integral = Augmented(BoundVelocity(prior), prior.source, None).solve(RK4(20), x0, 0.0, 1.0)
    forward = -prior.source.gaussian_nll(x0) - integral
    assert torch.allclose(log_likelihood(prior, x1, RK4(20)), forward, rtol=0, atol=1e-5)
    assert torch.allclose(x1, RK4(20)(prior.velocity, x0), rtol=0, atol=1e-13)


def test_hutchinson_estimate_is_unbiased(mixture: Build, prior_of: Build) -> None:
    """Over many seeds of one signal the mean lies within four standard errors, which are small."""
    oracle = mixture(2, 4)
    x = oracle.sample([7]).expand(3000, -1)
    with torch.no_grad():
        estimate = log_likelihood(prior_of(oracle), x, Midpoint(8), seeds=range(3000))
        exact = log_likelihood(prior_of(oracle), x[:1], Midpoint(8))
    error = estimate.std() / math.sqrt(len(x))
    assert error < 0.02
    assert abs(estimate.mean() - exact) < 4 * error


def test_more_probes_spread_less(mixture: Build, prior_of: Build) -> None:
    x = states(4)[:1].expand(500, -1)
    prior = prior_of(mixture(2, 4))
    with torch.no_grad():
        one, nine = (
            log_likelihood(prior, x, Midpoint(5), seeds=range(500), count=count).std()
            for count in (1, 9)
        )
    assert float(one / nine) == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("solver", [Midpoint(10), Dopri5(1e-4, 1e-4)], ids=repr)
@pytest.mark.parametrize("estimated", [False, True])
def test_one_sample_does_not_see_another(
    estimated: bool, solver: Solver, mixture: Build, prior_of: Build
) -> None:
    prior, x = prior_of(mixture(2, 3)), states(3)
    seeds = SEEDS if estimated else None
    together = log_likelihood(prior, x, solver, seeds=seeds)
    for i in range(3):
        alone = log_likelihood(
            prior, x[i : i + 1], solver, seeds=None if seeds is None else seeds[i : i + 1]
        )
        assert torch.allclose(together[i], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_gradient_of_the_likelihood_is_the_score(
    gradient: Any, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, 3)
    x = states(3).requires_grad_()
    value = log_likelihood(prior_of(oracle), x, RK4(20, gradient))
    (score,) = torch.autograd.grad(value.sum(), x)
    (expected,) = torch.autograd.grad(oracle.log_prob(x).sum(), x)
    assert torch.allclose(score, expected, rtol=0, atol=2e-3)


# ------------------------------------------------------------------ codecs, units, subspaces


@pytest.mark.parametrize("scale", [0.25, [0.5, 2.0, 3.0]])
def test_a_scaled_codec_changes_the_density_of_signals(
    scale: Any, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(1, 3)
    prior = prior_of(oracle)
    prior.codec = Scaled(scale, 0.3)
    factors = torch.as_tensor(scale, dtype=torch.float64).expand(3)
    law = torch.distributions.MultivariateNormal(
        0.3 + factors * oracle.means[0], factors.diag() @ oracle.covariances[0] @ factors.diag()
    )
    x = states(3)
    assert torch.allclose(log_likelihood(prior, x, RK4(40)), law.log_prob(x), atol=1e-4)


def test_bits_per_dimension_of_a_known_density() -> None:
    """White noise of deviation s in [−1, 1]: ½ log₂(2πe s²) + log₂ 127.5 bits at its entropy."""
    deviation, d = 0.1, 4
    state = gaussian(torch.zeros(d).double(), torch.eye(d).double())
    prior = Prior(state.flow(), Gaussian((d,)), Scaled(deviation, 0.2))
    x = 0.2 + deviation * torch.ones(1, d, dtype=torch.float64)  # ‖z‖² = d, its mean
    bits = bits_per_dimension(log_likelihood(prior, x, Dopri5(1e-8, 1e-8)).detach(), d)
    expected = 0.5 * math.log2(2 * math.pi * math.e * deviation**2) + math.log2(127.5)
    assert float(bits) == pytest.approx(expected, abs=1e-6)


def test_bits_per_dimension_of_the_uniform_density() -> None:
    """p = 2^{−d} on [−1, 1]^d is 2/256 per level but for the last: 8 bits, less log₂(256/255)."""
    bits = bits_per_dimension(torch.tensor([-10 * math.log(2)]), 10)
    assert float(bits) == pytest.approx(math.log2(255), abs=1e-6)
    assert float(bits_per_dimension(torch.tensor([0.0]), 3, levels=256)) == pytest.approx(8)


class Shrinking(torch.nn.Module):
    """u = −x on all entries of padded point sets, padding and centre of mass included."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -x


@pytest.mark.parametrize("estimated", [False, True])
def test_density_lives_on_the_subspace_of_the_source(estimated: bool) -> None:
    """x(1) = e^{−1} x_0 has log p_1 = log p_0 + d, with d the true degrees of freedom."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    source = MaskedGaussian(mask, features=5)
    prior = Prior(Flow(Shrinking(), CondOT()), source)
    x0 = source.sample(SEEDS, dtype=torch.float64)
    seeds = SEEDS if estimated else None
    found = log_likelihood(prior, x0 / math.e, RK4(8), seeds=seeds, count=2)
    freedom = mask.sum(1) * 5.0 - 3
    if estimated:  # −v^T v of projected probes, which is d on average
        v = probes(SEEDS, source.shape, 2, x0)
        freedom = sum(source.project(v[:, m]).square().sum((1, 2)) for m in range(2)) / 2
    expected = freedom - source.gaussian_nll(x0)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)


def test_adaptive_solver_takes_conditions_along() -> None:
    class Rate(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
            return rate.unsqueeze(1) * x

    rates = torch.tensor([0.1, 3.0, -2.0], dtype=torch.float64)
    prior = Prior(Flow(Rate(), CondOT()), Gaussian((2,)), conditions={"rate": rates})
    x = states(2)
    found = log_likelihood(prior, x, Dopri5(1e-8, 1e-8))
    source = x * torch.exp(-rates).unsqueeze(1)
    expected = -prior.source.gaussian_nll(source) - 2 * rates
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


class Opaque(Codec):
    """A codec of unknown volume."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z)


def test_bad_input_is_found_before_the_network_is_asked(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(1, 3))
    with pytest.raises(ValueError, match=r"x: expected states of shape \(3,\), got \(2,\)"):
        log_likelihood(prior, states(2), Midpoint(2))
    with pytest.raises(ValueError, match="seeds: expected 3, one per sample, got 2"):
        log_likelihood(prior, states(3), Midpoint(2), seeds=[1, 2])
    with pytest.raises(ValueError, match="x: expected 2, as many as rows in conditions, got 3"):
        log_likelihood(prior.bind(label=[1, 2]), states(3), Midpoint(2))
    prior.codec = Opaque()
    with pytest.raises(NotImplementedError, match="Opaque"):
        log_likelihood(prior, states(3), Midpoint(2))
    assert prior.flow.evaluations.forward == 0
