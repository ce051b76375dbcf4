"""Affine Gaussian paths: derivatives, the inverse of the log-SNR, ends, tables."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from ctrlgen.priors import paths as module
from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path

TIMES = torch.linspace(0.02, 0.98, 37, dtype=torch.float64)


def test_every_path_is_tested(paths):
    defined = {
        item
        for name in module.__all__
        if inspect.isclass(item := getattr(module, name)) and issubclass(item, Path)
    }
    assert defined - {Path} == {type(path) for path in paths.values()}


def test_derivatives_are_those_of_alpha_and_sigma(path):
    t = TIMES.clone().requires_grad_()
    at = path(t)
    for value, derivative in ((at.alpha, at.d_alpha), (at.sigma, at.d_sigma)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-11, atol=1e-12)


def test_derived_coefficients(path):
    t = TIMES.clone().requires_grad_()
    at = path(t)
    torch.testing.assert_close(at.wronskian, at.d_alpha * at.sigma - at.alpha * at.d_sigma)
    torch.testing.assert_close(at.a, at.d_sigma / at.sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        at.b, at.d_alpha - at.alpha * at.d_sigma / at.sigma, rtol=1e-10, atol=1e-12
    )
    snr = (at.alpha / at.sigma) ** 2
    (d_snr,) = torch.autograd.grad(snr.sum(), t, retain_graph=True)
    torch.testing.assert_close(at.gamma, d_snr / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(at.log_snr, snr.log(), rtol=1e-11, atol=1e-12)
    assert (at.wronskian > 0).all(), "the signal-to-noise ratio must increase towards the data"


def test_time_at_inverts_log_snr(path):
    torch.testing.assert_close(path.time_at(path(TIMES).log_snr), TIMES, rtol=0, atol=1e-10)
    levels = path(TIMES).log_snr
    torch.testing.assert_close(path(path.time_at(levels)).log_snr, levels, rtol=1e-10, atol=1e-10)


def test_time_at_is_differentiable(path):
    level = path(TIMES).log_snr.detach().requires_grad_()
    (slope,) = torch.autograd.grad(path.time_at(level).sum(), level)
    t = TIMES.clone().requires_grad_()
    (rate,) = torch.autograd.grad(path(t).log_snr.sum(), t)
    torch.testing.assert_close(slope, 1 / rate, rtol=1e-9, atol=0)


def test_time_at_bears_levels_beyond_the_ends(path):
    """Another path may reach no noise or no signal at all: then the end is the answer."""
    levels = torch.tensor([-math.inf, -200.0, 200.0, math.inf], dtype=torch.float64)
    times = path.time_at(levels).clamp(0, 1)
    torch.testing.assert_close(times, torch.tensor([0.0, 0, 1, 1], dtype=torch.float64))


def test_the_noise_end_is_noise_and_the_data_end_data(paths):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    exact = {
        "condot": ([0, 1], [1, 0]),
        "cosine": ([0, 1], [1, 0]),
        "vp": ([math.exp(-10.05 / 2), 1], [math.sqrt(1 - math.exp(-10.05)), 1e-3]),
        "edm": ([1 / math.hypot(1, 80), 1], [80 / math.hypot(1, 80), 0.002]),
    }
    for name, (alpha, sigma) in exact.items():
        at = paths[name](t)
        torch.testing.assert_close(at.alpha, t.new_tensor(alpha), rtol=0, atol=3e-6)
        torch.testing.assert_close(at.sigma, t.new_tensor(sigma), rtol=0, atol=3e-6)
    for path in paths.values():
        assert all(torch.isfinite(part).all() for part in path(t))


def test_variance_preserving_paths_preserve_it(paths):
    for name in ("cosine", "vp", "vp-constant", "ddpm", "table", "edm", "edm-rho3"):
        at = paths[name](TIMES)
        torch.testing.assert_close(
            at.alpha**2 + at.sigma**2, torch.ones_like(TIMES), rtol=1e-13, atol=0
        )


def test_formulas():
    """The definitions of the module's docstring, written out once more."""
    t = TIMES
    at = CondOT()(t)
    torch.testing.assert_close(torch.stack(at[:2]), torch.stack((t, 1 - t)))
    at = Cosine()(t)
    torch.testing.assert_close(at.alpha, torch.sin(math.pi * t / 2), rtol=1e-14, atol=0)
    at = VP(0.1, 20.0, epsilon=1e-3)(t)
    tau = 1 + t * (1e-3 - 1)
    integral = 0.1 * tau + 0.5 * tau**2 * 19.9
    torch.testing.assert_close(at.alpha, torch.exp(-integral / 2), rtol=1e-13, atol=0)
    torch.testing.assert_close(at.sigma, (1 - torch.exp(-integral)).sqrt(), rtol=1e-10, atol=0)
    at = EDM(0.01, 20.0, rho=3.0)(t)
    s = (20 ** (1 / 3) + t * (0.01 ** (1 / 3) - 20 ** (1 / 3))) ** 3
    torch.testing.assert_close(at.sigma / at.alpha, s, rtol=1e-12, atol=0)


def test_table_is_met_at_its_indices():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    table = torch.cumprod(1 - betas, 0)
    path = DiscreteVP.linear(1000, 1e-4, 0.02)
    index = torch.arange(1000, dtype=torch.float64)
    t = 1 - index / 999
    at = path(t)
    torch.testing.assert_close(at.alpha, table.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(at.sigma, (1 - table).sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(path.index(t), index, rtol=0, atol=1e-9)
    torch.testing.assert_close(path.time_at(at.log_snr), t, rtol=0, atol=1e-9)


def test_table_interpolates_the_log_snr_linearly_in_the_index():
    path = DiscreteVP([0.9, 0.7, 0.4])
    ends = path(torch.tensor([1.0, 0.5], dtype=torch.float64)).log_snr
    between = path(torch.tensor([1 - 0.25 / 2], dtype=torch.float64)).log_snr
    torch.testing.assert_close(between, 0.75 * ends[:1] + 0.25 * ends[1:], rtol=1e-12, atol=0)


def test_shape_dtype_and_device_are_those_of_the_times(path, dtype, device):
    for t in (
        torch.tensor(0.3, dtype=dtype, device=device),
        torch.rand(5, dtype=dtype, device=device),
        torch.rand(2, 3, dtype=dtype, device=device),
    ):
        for part in (*path(t), path.time_at(path(t).log_snr)):
            assert (part.shape, part.dtype, part.device) == (t.shape, dtype, t.device)


def test_each_time_has_its_own_coefficients(path):
    together = path(TIMES)
    for i in (0, 11, 36):
        for alone, part in zip(path(TIMES[i]), together, strict=True):
            assert alone == part[i]


def test_config_rebuilds_the_path(path):
    rebuilt = type(path)(**path.config())
    for a, b in zip(path(TIMES), rebuilt(TIMES), strict=True):
        assert torch.equal(a, b)
    assert type(path).__name__ in repr(path)
    assert len(repr(path)) < 100


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: VP(0.0, 20.0), "beta_min"),
        (lambda: VP(2.0, 1.0), "beta_max"),
        (lambda: VP(epsilon=0.0), "epsilon"),
        (lambda: VP(epsilon=1.0), "epsilon"),
        (lambda: EDM(0.0, 80.0), "sigma_min"),
        (lambda: EDM(2.0, 1.0), "sigma_max"),
        (lambda: EDM(rho=-1.0), "rho"),
        (lambda: DiscreteVP([0.5]), "alphas_cumprod"),
        (lambda: DiscreteVP([0.5, 0.6]), "alphas_cumprod"),
        (lambda: DiscreteVP([1.0, 0.5]), "alphas_cumprod"),
        (lambda: DiscreteVP(torch.rand(2, 2)), "alphas_cumprod"),
        (lambda: DiscreteVP([0.5, math.nan]), "alphas_cumprod"),
    ],
)
def test_bad_arguments_are_named(build, argument):
    with pytest.raises(ValueError, match=argument):
        build()
